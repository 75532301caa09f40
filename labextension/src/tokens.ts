/**
 * The seam other parts of the interface build on: dialog now, a panel later.
 */
import type * as nbformat from '@jupyterlab/nbformat';
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type {
  IActivity,
  ICheckpointEvent,
  IManifest,
  IOffer,
  IRestored,
  IRestoreOptions,
  ISaveOptions
} from './manifest';

/** How far a save or a restore of one kernel has come. */
export interface IProgress {
  kernelId: string;
  action: 'save' | 'restore';
  /** From 0 to 1, or null while it is not known. */
  fraction: number | null;
  /** False in the last emission for this act. */
  active: boolean;
}

/** Checkpoints as the front end sees them: lists, acts, and signals of both. */
export interface ICheckpointModel {
  /** Emitted when the stored checkpoints may have changed, by whomever. */
  readonly changed: ISignal<ICheckpointModel, void>;
  /** Emitted at start, progress and end of every save and restore, by whomever. */
  readonly progressed: ISignal<ICheckpointModel, IProgress>;
  /** Emitted with a kernel's id after that kernel was restored in place. */
  readonly restored: ISignal<ICheckpointModel, string>;
  /** Emitted when a session came back by itself, could not, or ended unplanned. */
  readonly told: ISignal<ICheckpointModel, ICheckpointEvent>;

  /** Tell whether a kernel is being saved at this moment. */
  isSaving(kernelId: string): boolean;
  /** Return a notebook's and its kernel's checkpoints, newest first. */
  list(path: string, kernelId?: string): Promise<IManifest[]>;
  save(
    kernelId: string,
    options: ISaveOptions,
    onProgress?: (fraction: number | null) => void
  ): Promise<IManifest>;
  restore(id: string, options: IRestoreOptions): Promise<IRestored>;
  update(
    id: string,
    change: Partial<Pick<IManifest, 'name' | 'note' | 'pinned'>>
  ): Promise<IManifest>;
  remove(id: string): Promise<void>;
  /** Return the notebook document saved with a checkpoint. */
  notebook(id: string): Promise<nbformat.INotebookContent>;
  /** Return the sessions of a notebook that ended unplanned and can be brought back. */
  offers(path: string): Promise<IOffer[]>;
  /** Take the offer of a kernel's session away; its checkpoint stays. */
  dismiss(kernelId: string): Promise<void>;
  /** Return what runs in a kernel; an unanswered or unknown kernel runs nothing. */
  activity(kernelId: string): Promise<IActivity>;
}

export const ICheckpointModel = new Token<ICheckpointModel>(
  '@jupyter-ckpt/labextension:ICheckpointModel',
  'Lists, saves and restores checkpoints of kernels, with signals of every change.'
);
