"""What the soaked kernels do all the time, and the questions that tell whether they are whole."""

from __future__ import annotations

BEGIN = '''
import hashlib, os, random, subprocess, sys, threading, time
memory = bytearray(os.urandom(32 << 20))
path = "written-by-" + {name!r} + ".log"
written = open(path, "w+")
lines = beats = 0
longest_gap_s = 0.0
def beat():
    global beats, longest_gap_s
    last = time.monotonic()
    while True:
        time.sleep(0.01)
        now = time.monotonic()
        longest_gap_s, last = max(longest_gap_s, now - last), now
        beats += 1
def write():
    global lines
    while True:
        at = random.randrange(len(memory) - 4096)
        memory[at:at + 4096] = os.urandom(4096)
        written.write("line %d\\n" % lines)
        written.flush()
        lines += 1
        time.sleep(0.005)
threading.Thread(target=beat, daemon=True).start()
threading.Thread(target=write, daemon=True).start()
child = subprocess.Popen([sys.executable, "-uc", "for line in iter(input, None): print(line)"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print("begun")
'''

ASK = '''
import json
child.stdin.write("hello\\n"); child.stdin.flush()
heard = child.stdout.readline().strip()
n = lines
with open(path) as again:
    told = [int(line.split()[1]) for line in again.read().split("\\n") if line.startswith("line ")]
print(json.dumps({"child": heard, "beats": beats, "lines": n, "gap_s": round(longest_gap_s, 3),
                  "file_whole": told[:n] == list(range(n)), "memory": len(memory)}))
'''
