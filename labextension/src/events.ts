/**
 * Transport: checkpoint events from the server's event stream.
 */
import type { Event } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';
import type { ICheckpointEvent } from './manifest';

const SCHEMA_PREFIX = 'https://events.jupyter.org/jupyter_ckpt/checkpoint/';

/**
 * The checkpoint events among all events of the server.
 *
 * Events are hints that arrive soon; what they tell is never the only way to
 * learn it, since a socket may be down when one is sent.
 */
export class CheckpointEvents {
  constructor(manager: Event.IManager) {
    manager.stream.connect(this._onEvent, this);
  }

  /** Emitted for every checkpoint event. */
  get received(): ISignal<this, ICheckpointEvent> {
    return this._received;
  }

  /**
   * Resolve at the next event of a job, or after `limitMs` at the latest.
   */
  next(jobId: string, limitMs: number): Promise<void> {
    return new Promise(resolve => {
      const finish = (): void => {
        window.clearTimeout(timer);
        this._received.disconnect(onEvent);
        resolve();
      };
      const onEvent = (_: this, event: ICheckpointEvent): void => {
        if (event.job_id === jobId) {
          finish();
        }
      };
      const timer = window.setTimeout(finish, limitMs);
      this._received.connect(onEvent);
    });
  }

  private _onEvent(_: unknown, emission: Event.Emission): void {
    if (emission.schema_id.startsWith(SCHEMA_PREFIX)) {
      this._received.emit(emission as unknown as ICheckpointEvent);
    }
  }

  private _received = new Signal<this, ICheckpointEvent>(this);
}
