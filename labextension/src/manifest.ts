/**
 * What the server's REST interface under `/api/ckpt/` answers, as types.
 *
 * Field names are the server's; sizes are bytes, times are seconds or ISO 8601.
 */
import type * as nbformat from '@jupyterlab/nbformat';

/** One checkpoint. */
export interface IManifest {
  id: string;
  created_at: string;
  name: string | null;
  note: string | null;
  pinned: boolean;
  trigger: string;
  purpose?: string | null;
  engine: string;
  mode: string;
  kernel: {
    id: string;
    name: string;
    language?: string;
    execution_count?: number | null;
    busy?: boolean | null;
    running?: { msg_id: string; cell_id: string | null } | null;
  };
  notebook: { path: string; sha256?: string } | null;
  processes: { pid: number; ppid: number; name: string; rss_bytes: number }[];
  memory_bytes: number;
  stored_bytes: number;
  pause_s: number;
  duration_s: number;
  files: unknown[];
  warnings: string[];
}

/** The server's JSON for anything that went wrong. */
export interface IErrorBody {
  id: string;
  code: number;
  message: string;
  hint: string;
  log?: string;
}

/** One act of a kernel's agent: a save, for example. */
export interface IJob {
  id: string;
  kind: string;
  state: string;
  phase: string;
  progress: { done_bytes: number; total_bytes: number };
  result: IManifest | null;
  error: IErrorBody | null;
  warnings: string[];
}

/** A request for a save. */
export interface ISaveOptions {
  name?: string;
  note?: string;
  pin?: boolean;
}

/** A request for a restore. */
export interface IRestoreOptions {
  mode: 'in-place' | 'new';
  kernel_id?: string;
  path?: string;
  files?: 'put-back' | 'keep' | 'abort';
}

/** What a restore answers. */
export interface IRestored {
  kernel_id: string;
  notebook: string | null;
  session: { id: string; path: string } | null;
  warnings: string[];
}

/** A cell's execution as the kernel's journal has it. */
export interface IExecution {
  msg_id: string;
  cell_id: string | null;
  execution_count: number | null;
  outputs: nbformat.IOutput[];
  /** Which of `outputs` the journal could not keep whole, by index. */
  partial?: number[];
  /** How many outputs came before `outputs` and are not kept at all. */
  forgotten?: number;
  /** What later updates call an output, by its index in `outputs`. */
  display_ids?: Record<string, string>;
  /** Ids of the latest messages already contained in `outputs`. */
  message_ids?: string[];
}

/** The execution that goes on now. */
export interface IRunningExecution extends IExecution {
  session: string;
  code: string;
}

/** What runs in a kernel, and what finished lately. */
export interface IActivity {
  busy: boolean | null;
  running: IRunningExecution | null;
  recent?: IExecution[];
}

/** One event of the server's event stream. */
export interface ICheckpointEvent {
  action: 'save' | 'restore' | 'fork' | 'delete' | 'park' | 'revive' | 'offer';
  phase: 'started' | 'progress' | 'succeeded' | 'failed';
  kernel_id: string;
  job_id?: string;
  checkpoint_id?: string;
  progress?: number;
  message?: string;
  error?: IErrorBody;
  /** Of a session that is revived or offered: the name of its notebook. */
  notebook?: string;
  reason?: 'parked' | 'crash';
  trigger?: string;
  checkpoint_created_at?: string;
}

/** A session that ended unplanned and can be brought back. */
export interface IOffer {
  kernel_id: string;
  notebook: string | null;
  ended_at: string;
  how: string;
  checkpoint: string | null;
  checkpoint_created_at: string | null;
}
