/**
 * Transport: the REST interface under `/api/ckpt/`, and nothing else.
 */
import { URLExt } from '@jupyterlab/coreutils';
import type * as nbformat from '@jupyterlab/nbformat';
import { ServerConnection } from '@jupyterlab/services';
import type {
  IActivity,
  IErrorBody,
  IJob,
  IManifest,
  IOffer,
  IRestored,
  IRestoreOptions,
  ISaveOptions
} from './manifest';

/** How a proxy answers for a server that is away, or slower than it cares to wait. */
const GATEWAY_STATUSES = [502, 503, 504];

/**
 * Something the server refused or could not do, with the next step.
 */
export class CheckpointError extends Error {
  constructor(
    message: string,
    readonly hint = '',
    readonly status = 0,
    readonly log = '',
    /** The server's name for this kind of error; empty when it gave none. */
    readonly id = ''
  ) {
    super(message);
    this.name = 'CheckpointError';
  }

  /** Return the error a server's JSON stands for. */
  static fromBody(body: Partial<IErrorBody>, status = 0): CheckpointError {
    return new CheckpointError(
      body.message ?? 'The request failed.',
      body.hint ?? '',
      status,
      body.log ?? '',
      body.id ?? ''
    );
  }
}

/**
 * The routes of the server extension.
 *
 * Every method rejects with a `CheckpointError`; status 0 means that the server
 * did not answer: nobody did, or a proxy in its place.
 */
export class CheckpointApi {
  constructor(private readonly _settings: ServerConnection.ISettings) {}

  /** Ask for a save of a kernel; resolves as soon as the job is accepted. */
  save(kernelId: string, options: ISaveOptions): Promise<IJob> {
    return this._request('POST', ['kernels', kernelId, 'checkpoints'], options);
  }

  job(id: string): Promise<IJob> {
    return this._request('GET', ['jobs', id]);
  }

  list(query: { notebook?: string; kernel_id?: string }): Promise<IManifest[]> {
    return this._request('GET', ['checkpoints'], undefined, query);
  }

  show(id: string): Promise<IManifest> {
    return this._request('GET', ['checkpoints', id]);
  }

  /** Return the notebook document as it was when the checkpoint was saved. */
  notebook(id: string): Promise<nbformat.INotebookContent> {
    return this._request('GET', ['checkpoints', id, 'notebook']);
  }

  update(
    id: string,
    change: Partial<Pick<IManifest, 'name' | 'note' | 'pinned'>>
  ): Promise<IManifest> {
    return this._request('PATCH', ['checkpoints', id], change);
  }

  async remove(id: string): Promise<void> {
    await this._request('DELETE', ['checkpoints', id]);
  }

  /** Restore a checkpoint; resolves when the restored kernel answers. */
  restore(id: string, options: IRestoreOptions): Promise<IRestored> {
    return this._request('POST', ['checkpoints', id, 'restore'], options);
  }

  /** Return the sessions of a notebook that ended unplanned. */
  offers(notebook: string): Promise<IOffer[]> {
    return this._request('GET', ['offers'], undefined, { notebook });
  }

  async dismiss(kernelId: string): Promise<void> {
    await this._request('DELETE', ['offers', kernelId]);
  }

  /** Return what runs in a kernel, with the outputs its journal holds. */
  activity(kernelId: string): Promise<IActivity> {
    return this._request('GET', ['kernels', kernelId, 'running']);
  }

  private async _request<T>(
    method: string,
    route: string[],
    body?: object,
    query: Record<string, string> = {}
  ): Promise<T> {
    const path = route.map(encodeURIComponent).join('/');
    const url =
      URLExt.join(this._settings.baseUrl, 'api', 'ckpt', path) + URLExt.objectToQueryString(query);
    let response: Response;
    let text: string;
    try {
      response = await ServerConnection.makeRequest(
        url,
        { method, cache: 'no-store', body: body ? JSON.stringify(body) : undefined },
        this._settings
      );
      text = await response.text();
    } catch (error) {
      throw silence(String(error));
    }
    if (!response.ok) {
      throw refusal(response, text);
    }
    try {
      return (text ? JSON.parse(text) : null) as T;
    } catch {
      // A login page, for example, to which the request was redirected.
      throw new CheckpointError(
        'The answer did not come from the Jupyter server.',
        'Load the page again: you may have to log in.',
        response.status
      );
    }
  }
}

/** Return the error that no answer of the server stands for. */
function silence(log: string): CheckpointError {
  return new CheckpointError(
    'The Jupyter server does not answer.',
    'Check that it runs, then try again.',
    0,
    log
  );
}

/** Return the error an unsuccessful answer stands for, whoever wrote it. */
function refusal(response: Response, text: string): CheckpointError {
  let data: { message?: string; error?: Partial<IErrorBody> } = {};
  try {
    data = (JSON.parse(text) ?? {}) as typeof data;
  } catch {
    // Not one of ours: a proxy's page, for example. The status line has to do.
  }
  if (data.error?.message) {
    return CheckpointError.fromBody(data.error, response.status);
  }
  const told = `The server answered ${response.status} ${response.statusText}.`;
  if (GATEWAY_STATUSES.includes(response.status)) {
    return silence(told);
  }
  // Jupyter answers with a page of its own where no extension has a route.
  if (response.status === 404 && /jupyter[ _]server/i.test(text)) {
    return new CheckpointError(
      'This Jupyter server has no checkpoint support.',
      'Run "jupyter server extension enable jupyter_ckpt" and start the server again.',
      404
    );
  }
  return new CheckpointError(data.message ?? told, '', response.status);
}
