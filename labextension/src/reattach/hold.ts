/**
 * Keeping messages back while a journal's snapshot is on its way.
 */
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { PromiseDelegate } from '@lumino/coreutils';
import type { ExecuteFuture } from './adopted';

/**
 * Between creation and release no output reaches the given futures' cells.
 *
 * A snapshot and the live messages overlap: some messages of the time between
 * are in the snapshot, others are not. On release those that are not go on to
 * where they belong, in order; the others are dropped.
 */
export class MessageHold {
  constructor(
    private readonly _kernel: Kernel.IKernelConnection,
    futures: ExecuteFuture[]
  ) {
    _kernel.anyMessage.connect(this._onMessage, this);
    // The connection waits for hooks, so everything behind stays in order. The
    // hooks are left in place: messages may arrive later than the snapshot
    // which contains them.
    futures.forEach(future => future.registerMessageHook(this.hook));
  }

  /** Let go, dropping the messages whose ids are known to be in the snapshot. */
  release(known: Iterable<string> = []): void {
    this._known = new Set(known);
    this._kernel.anyMessage.disconnect(this._onMessage, this);
    this._released.resolve();
  }

  /** Pass what was kept back to a future that did not exist before. */
  handOver(future: { offer(message: KernelMessage.IMessage): void }): void {
    this._messages.forEach(message => future.offer(message));
  }

  /** Tell whether an output of this message is to be shown; waits for the release. */
  readonly hook = async (message: KernelMessage.IIOPubMessage): Promise<boolean> => {
    await this._released.promise;
    return !this._known.has(message.header.msg_id);
  };

  private _onMessage(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    if (direction === 'recv') {
      this._messages.push(msg);
    }
  }

  private readonly _released = new PromiseDelegate<void>();
  private readonly _messages: KernelMessage.IMessage[] = [];
  private _known = new Set<string>();
}
