/**
 * Noticing when a notebook may have lost touch with its kernel.
 */
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { type Kernel, ServerConnection } from '@jupyterlab/services';
import type { ICheckpointModel } from '../tokens';
import { URLExt } from '@jupyterlab/coreutils';
import { Reconciler } from './reconciler';
import { SeenExecutions } from './seen';

/** How often a server that went away is asked whether it is back. */
const KNOCK_MS = 1000;

/** Watch every notebook, now and later. */
export function watchNotebooks(tracker: INotebookTracker, model: ICheckpointModel): void {
  const watched = new WeakSet<NotebookPanel>();
  const watch = (panel: NotebookPanel): void => {
    if (!watched.has(panel)) {
      watched.add(panel);
      new NotebookWatcher(panel, model);
    }
  };
  tracker.forEach(watch);
  tracker.widgetAdded.connect((_, panel) => watch(panel));
}

/**
 * Asks for reconciliation of one notebook whenever something suggests it.
 */
class NotebookWatcher {
  constructor(
    private readonly _panel: NotebookPanel,
    model: ICheckpointModel
  ) {
    this._reconciler = new Reconciler(_panel, model, new SeenExecutions(_panel));
    const { context, sessionContext } = _panel;
    sessionContext.kernelChanged.connect((_, { newValue }) => {
      if (newValue) {
        this._attach();
      }
    });
    sessionContext.connectionStatusChanged.connect((_, status) => this._onConnection(status));
    const onRestored = (_: unknown, kernelId: string): void => {
      if (sessionContext.session?.kernel?.id === kernelId) {
        void this._reconciler.request('restored');
      }
    };
    model.restored.connect(onRestored);
    _panel.disposed.connect(() => {
      model.restored.disconnect(onRestored);
      window.clearTimeout(this._timer);
    });
    void Promise.all([context.ready, sessionContext.ready]).then(() => this._attach());
  }

  private _attach(): void {
    this._wasConnected = this._kernel?.connectionStatus === 'connected';
    void this._panel.context.ready.then(() => this._reconciler.request('attached'));
  }

  private _onConnection(status: Kernel.ConnectionStatus): void {
    if (status === 'connected') {
      window.clearTimeout(this._timer);
      if (this._wasConnected) {
        void this._reconciler.request('reconnected');
      }
      this._wasConnected = true;
    } else if (this._wasConnected) {
      this._knock();
    }
  }

  /** Reconnect as soon as the server answers, well before the connection's own next try. */
  private _knock(): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => {
      const kernel = this._kernel;
      if (kernel && kernel.connectionStatus !== 'connected') {
        void isServing(kernel.serverSettings).then(isBack => {
          if (isBack && this._kernel === kernel && kernel.connectionStatus !== 'connected') {
            kernel.reconnect().catch(() => this._knock());
          } else if (!isBack) {
            this._knock();
          }
        });
      }
    }, KNOCK_MS);
  }

  private get _kernel(): Kernel.IKernelConnection | null | undefined {
    return this._panel.isDisposed ? null : this._panel.sessionContext.session?.kernel;
  }

  private readonly _reconciler: Reconciler;
  private _wasConnected = false;
  private _timer = 0;
}

async function isServing(settings: ServerConnection.ISettings): Promise<boolean> {
  try {
    const url = URLExt.join(settings.baseUrl, 'api', 'status');
    return (await ServerConnection.makeRequest(url, {}, settings)).ok;
  } catch {
    return false;
  }
}
