/**
 * The state shared by everything in the interface that shows checkpoints.
 */
import type * as nbformat from '@jupyterlab/nbformat';
import { type ISignal, Signal } from '@lumino/signaling';
import { type CheckpointApi, CheckpointError } from './api';
import type { CheckpointEvents } from './events';
import type {
  IActivity,
  ICheckpointEvent,
  IJob,
  IManifest,
  IOffer,
  IRestored,
  IRestoreOptions,
  ISaveOptions
} from './manifest';
import type { ICheckpointModel, IProgress } from './tokens';

/** How long to wait for a job's next event before asking for its state. */
const POLL_MS = 500;
/** Answers that a job's owner cannot give this time but may give the next. */
const PATIENCE_MS = 30_000;
/** Events are not the only way to learn that a save is over: after so long without one, ask. */
const SILENCE_MS = 10_000;

/**
 * Checkpoints of this server, from REST answers and events.
 */
export class CheckpointModel implements ICheckpointModel {
  constructor(
    private readonly _api: CheckpointApi,
    private readonly _events: CheckpointEvents
  ) {
    _events.received.connect(this._onEvent, this);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get progressed(): ISignal<this, IProgress> {
    return this._progressed;
  }

  get restored(): ISignal<this, string> {
    return this._restored;
  }

  get told(): ISignal<this, ICheckpointEvent> {
    return this._told;
  }

  isSaving(kernelId: string): boolean {
    return this._saving.has(kernelId);
  }

  async list(path: string, kernelId?: string): Promise<IManifest[]> {
    // The notebook may have been renamed since, and a kernel may have had no
    // notebook: either is enough to belong here.
    const answers = await Promise.all([
      this._api.list({ notebook: path }),
      kernelId ? this._api.list({ kernel_id: kernelId }) : []
    ]);
    const found = new Map(answers.flat().map(manifest => [manifest.id, manifest]));
    return [...found.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  }

  /**
   * Save a kernel and resolve with the checkpoint when it is on disk.
   *
   * Rejects with the job's `CheckpointError`; the kernel runs on in any case.
   */
  async save(
    kernelId: string,
    options: ISaveOptions,
    onProgress?: (fraction: number | null) => void
  ): Promise<IManifest> {
    const onReport = (_: this, { action, ...progress }: IProgress): void => {
      if (action === 'save' && progress.kernelId === kernelId) {
        onProgress?.(progress.fraction);
      }
    };
    this._progressed.connect(onReport);
    this._report({ kernelId, action: 'save', fraction: null, active: true });
    try {
      let job = await this._api.save(kernelId, options);
      while (!isFinal(job)) {
        await this._events.next(job.id, POLL_MS);
        job = await this._jobAgain(job);
      }
      if (job.result) {
        return job.result;
      }
      throw CheckpointError.fromBody(job.error ?? { message: 'The checkpoint was not saved.' });
    } finally {
      this._progressed.disconnect(onReport);
      this._report({ kernelId, action: 'save', fraction: null, active: false });
      this._changed.emit();
    }
  }

  async restore(id: string, options: IRestoreOptions): Promise<IRestored> {
    const restored = await this._api.restore(id, options);
    if (options.mode === 'in-place') {
      this._restored.emit(restored.kernel_id);
    }
    this._changed.emit();
    return restored;
  }

  async update(
    id: string,
    change: Partial<Pick<IManifest, 'name' | 'note' | 'pinned'>>
  ): Promise<IManifest> {
    const manifest = await this._api.update(id, change);
    this._changed.emit();
    return manifest;
  }

  async remove(id: string): Promise<void> {
    await this._api.remove(id);
    this._changed.emit();
  }

  notebook(id: string): Promise<nbformat.INotebookContent> {
    return this._api.notebook(id);
  }

  async offers(path: string): Promise<IOffer[]> {
    const offers = await this._api.offers(path);
    return offers.filter(offer => offer.checkpoint !== null);
  }

  async dismiss(kernelId: string): Promise<void> {
    await this._api.dismiss(kernelId);
    this._changed.emit();
  }

  async activity(kernelId: string): Promise<IActivity> {
    try {
      return await this._api.activity(kernelId);
    } catch (error) {
      // Not being able to tell is the normal case for kernels without an agent.
      if (error instanceof CheckpointError) {
        return { busy: null, running: null };
      }
      throw error;
    }
  }

  /** Ask for a job's state; a server that is away for a moment is waited for. */
  private async _jobAgain(job: IJob): Promise<IJob> {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      try {
        return await this._api.job(job.id);
      } catch (error) {
        const away = error instanceof CheckpointError && error.status === 0;
        if (!away || Date.now() > deadline) {
          throw error;
        }
        await this._events.next(job.id, 2 * POLL_MS);
      }
    }
  }

  private _onEvent(_: CheckpointEvents, event: ICheckpointEvent): void {
    const over = event.phase === 'succeeded' || event.phase === 'failed';
    if (event.action === 'save' || event.action === 'restore') {
      const { kernel_id: kernelId, action } = event;
      this._report({ kernelId, action, fraction: event.progress ?? null, active: !over });
      if (action === 'save' && !over) {
        this._expectMore(kernelId, event.job_id);
      }
    }
    if (event.phase === 'succeeded') {
      if (event.action === 'restore' || event.action === 'revive') {
        this._restored.emit(event.kernel_id);
      }
      this._changed.emit();
    }
    if (over && (event.action === 'revive' || event.action === 'offer')) {
      this._told.emit(event);
    }
  }

  /** Ask for a save whose events stop coming: the socket may have been down for the last. */
  private _expectMore(kernelId: string, jobId: string | undefined): void {
    window.clearTimeout(this._silences.get(kernelId));
    const ask = async (): Promise<void> => {
      let over = true;
      try {
        over = !jobId || isFinal(await this._api.job(jobId));
      } catch (error) {
        // Not there for a moment, or for good: only the latter ends it.
        over = !(error instanceof CheckpointError && error.status === 0);
      }
      if (this._silences.get(kernelId) !== timer) {
        return; // an event came meanwhile, or the end
      }
      if (over) {
        this._report({ kernelId, action: 'save', fraction: null, active: false });
        this._changed.emit();
      } else {
        this._expectMore(kernelId, jobId);
      }
    };
    const timer = window.setTimeout(() => void ask(), SILENCE_MS);
    this._silences.set(kernelId, timer);
  }

  private _report(progress: IProgress): void {
    if (progress.action === 'save') {
      if (!progress.active) {
        window.clearTimeout(this._silences.get(progress.kernelId));
        this._silences.delete(progress.kernelId);
      }
      if (progress.active) {
        this._saving.add(progress.kernelId);
      } else {
        this._saving.delete(progress.kernelId);
      }
    }
    this._progressed.emit(progress);
  }

  private _saving = new Set<string>();
  /** The timers of the saves that events tell of, by kernel. */
  private _silences = new Map<string, number>();
  private _changed = new Signal<this, void>(this);
  private _progressed = new Signal<this, IProgress>(this);
  private _told = new Signal<this, ICheckpointEvent>(this);
  private _restored = new Signal<this, string>(this);
}

function isFinal(job: IJob): boolean {
  return job.state === 'done' || job.state === 'failed';
}
