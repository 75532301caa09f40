/**
 * Remembering which executions a saved document already shows.
 */
import type { NotebookPanel } from '@jupyterlab/notebook';
import { type Kernel, KernelMessage } from '@jupyterlab/services';

const KEY = '@jupyter-ckpt/labextension:seen';
const MAX_REMEMBERED = 256;

/**
 * Executions whose end this browser saw and whose outputs it then saved.
 *
 * A cell without outputs may have lost them, or been cleared by its user; who
 * saw and saved the outputs once wants them no second time.
 */
export class SeenExecutions {
  constructor(panel: NotebookPanel) {
    const watch = (kernel?: Kernel.IKernelConnection | null): void => {
      kernel?.anyMessage.connect(this._onMessage, this);
    };
    watch(panel.sessionContext.session?.kernel);
    panel.sessionContext.kernelChanged.connect((_, change) => watch(change.newValue));
    panel.context.saveState.connect((_, state) => {
      if (state === 'completed') {
        this._store();
      }
    });
  }

  has(msgId: string): boolean {
    return this._unsaved.has(msgId) || read().includes(msgId);
  }

  /** Note that an execution's outputs are shown from now on. */
  add(msgId: string): void {
    this._unsaved.add(msgId);
  }

  private _onMessage(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    if (direction === 'recv' && KernelMessage.isExecuteReplyMsg(msg)) {
      this.add(msg.parent_header.msg_id);
    }
  }

  private _store(): void {
    if (this._unsaved.size) {
      const ids = [...read(), ...this._unsaved].slice(-MAX_REMEMBERED);
      this._unsaved.clear();
      try {
        window.localStorage.setItem(KEY, JSON.stringify(ids));
      } catch {
        // Storage that is full or forbidden: outputs may be filled in once more.
      }
    }
  }

  private _unsaved = new Set<string>();
}

function read(): string[] {
  try {
    const ids: unknown = JSON.parse(window.localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(ids) ? (ids as string[]) : [];
  } catch {
    return [];
  }
}
