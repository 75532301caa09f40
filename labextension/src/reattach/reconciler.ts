/**
 * Making one notebook's cells agree with what its kernel really does.
 */
import { CodeCell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import type { IActivity, IExecution, IRunningExecution } from '../manifest';
import type { ICheckpointModel } from '../tokens';
import { AdoptedFuture, type ExecuteFuture } from './adopted';
import { MessageHold } from './hold';
import { replay, showResult } from './outputs';
import type { SeenExecutions } from './seen';

/** Why the page may be wrong about its kernel. */
export type Cause = 'attached' | 'reconnected' | 'restored';

/** Messages are kept back no longer than this, whatever the server does. */
const ANSWER_LIMIT_MS = 5000;
/** After an answer to a later request, earlier messages may still be under way. */
const STRAGGLER_MS = 500;

/** A cell that shows [*], and the future it waits for. */
interface IWaiting {
  cell: CodeCell;
  future: ExecuteFuture;
}

/**
 * Compares the page with the kernel's journal and corrects the page.
 */
export class Reconciler {
  constructor(
    private readonly _panel: NotebookPanel,
    private readonly _model: ICheckpointModel,
    private readonly _seen: SeenExecutions
  ) {}

  /** Reconcile soon; requests that come meanwhile are answered by one more run. */
  async request(cause: Cause): Promise<void> {
    this._causes.add(cause);
    if (this._isActive) {
      return;
    }
    this._isActive = true;
    try {
      while (this._causes.size && !this._panel.isDisposed) {
        const causes = new Set(this._causes);
        this._causes.clear();
        await this._reconcile(causes);
      }
    } finally {
      this._isActive = false;
    }
  }

  private async _reconcile(causes: Set<Cause>): Promise<void> {
    const kernel = this._kernel;
    if (!kernel) {
      return;
    }
    const waiting = this._waiting();
    const hold = new MessageHold(
      kernel,
      waiting.map(({ future }) => future)
    );
    let activity: IActivity = { busy: null, running: null };
    try {
      activity = await limited(this._model.activity(kernel.id), activity);
      if (this._panel.isDisposed || this._kernel !== kernel) {
        return;
      }
      if (activity.running) {
        this._follow(kernel, activity.running, hold, waiting, causes.has('restored'));
      }
      this._fill(activity.recent ?? []);
    } finally {
      hold.release(activity.running?.message_ids);
    }
    if (causes.has('restored') || causes.has('reconnected')) {
      void this._settle(kernel, waiting);
    }
  }

  /** Let the running cell show its outputs so far, and those to come. */
  private _follow(
    kernel: Kernel.IKernelConnection,
    execution: IRunningExecution,
    hold: MessageHold,
    waiting: IWaiting[],
    wasRestored: boolean
  ): void {
    const cell = this._cell(execution.cell_id);
    if (!cell) {
      return;
    }
    const present = this._waiting().find(waiting => waiting.cell === cell)?.future;
    if (present?.msg.header.msg_id === execution.msg_id) {
      // One that was begun since the snapshot was asked for hears everything by itself.
      if (waiting.some(({ future }) => future === present)) {
        replay(cell, execution, present, false);
      }
    } else if (!present || wasRestored) {
      const future = new AdoptedFuture(kernel, execution);
      future.registerMessageHook(hold.hook);
      cell.outputArea.reattachFuture(future);
      replay(cell, execution, future, true);
      this._awaitEnd(cell, future, execution.msg_id);
      hold.handOver(future);
    }
    // Otherwise the user asked for the same cell again: that run is shown.
  }

  private _awaitEnd(cell: CodeCell, future: AdoptedFuture, msgId: string): void {
    cell.model.executionState = 'running';
    future.done.then(
      reply => {
        this._seen.add(msgId);
        if (!cell.isDisposed) {
          cell.model.executionCount = reply.content.execution_count;
          cell.model.executionState = 'idle';
        }
      },
      () => {
        if (!cell.isDisposed && cell.outputArea.future === future) {
          cell.model.executionState = 'idle';
        }
      }
    );
  }

  /** Give cells the outputs of runs that ended while nobody listened. */
  private _fill(recent: IExecution[]): void {
    const latest = new Map(recent.map(execution => [execution.cell_id, execution]));
    for (const [cellId, execution] of latest) {
      const cell = this._cell(cellId);
      const { model } = cell ?? {};
      if (
        cell &&
        model?.executionCount === null &&
        model.executionState !== 'running' &&
        !this._seen.has(execution.msg_id)
      ) {
        showResult(cell, execution);
        this._seen.add(execution.msg_id);
      }
    }
  }

  /**
   * End the waiting of cells whose request the kernel no longer knows.
   *
   * A kernel answers requests in order: when it answers one that was sent now,
   * it has answered all it still knew of those sent before. Executing nothing,
   * silently, is what every kernel answers; the answer also corrects the status
   * that the page shows for the kernel.
   */
  private async _settle(kernel: Kernel.IKernelConnection, before: IWaiting[]): Promise<void> {
    try {
      await kernel.requestExecute({ code: '', silent: true, store_history: false }).done;
    } catch {
      return; // The kernel has ended, and with it everything that waited.
    }
    await new Promise(resolve => window.setTimeout(resolve, STRAGGLER_MS));
    const stuck = this._waiting().filter(({ future }) =>
      before.some(waiting => waiting.future === future)
    );
    if (!stuck.length || this._kernel !== kernel) {
      return;
    }
    const { running, recent } = await this._model.activity(kernel.id);
    for (const { cell, future } of stuck) {
      const id = future.msg.header.msg_id;
      const result = recent?.find(execution => execution.msg_id === id);
      if (running?.msg_id === id || cell.isDisposed || future.isDisposed) {
        continue;
      }
      future.dispose();
      if (result) {
        showResult(cell, result);
      } else {
        cell.model.executionState = 'idle';
      }
    }
  }

  private get _kernel(): Kernel.IKernelConnection | null | undefined {
    return this._panel.isDisposed ? null : this._panel.sessionContext.session?.kernel;
  }

  private _cells(): CodeCell[] {
    return this._panel.content.widgets.filter(widget => widget instanceof CodeCell);
  }

  private _cell(id: string | null): CodeCell | undefined {
    return this._cells().find(cell => cell.model.id === id);
  }

  private _waiting(): IWaiting[] {
    return this._cells()
      .filter(cell => cell.model.executionState === 'running')
      .map(cell => ({ cell, future: cell.outputArea.future }))
      .filter(({ future }) => future && !future.isDisposed);
  }

  private readonly _causes = new Set<Cause>();
  private _isActive = false;
}

/** Return a promise's value, or `otherwise` when it takes too long. */
function limited<T>(promise: Promise<T>, otherwise: T): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = window.setTimeout(() => resolve(otherwise), ANSWER_LIMIT_MS);
    promise.then(resolve, reject).finally(() => window.clearTimeout(timer));
  });
}
