/**
 * Sessions that came back by themselves, and those that wait to be brought back.
 */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { CheckpointError } from './api';
import { formatGap, formatMoment, formatTrigger } from './format';
import type { ICheckpointEvent, IOffer } from './manifest';
import { describe } from './notices';
import { restoreHere } from './restore/flow';
import type { ICheckpointModel } from './tokens';

const TOLD_MS = 10_000;

/** Watch every notebook, now and later. */
export function watchOffers(
  app: JupyterFrontEnd,
  tracker: INotebookTracker,
  model: ICheckpointModel,
  trans: TranslationBundle
): void {
  const watched = new WeakSet<NotebookPanel>();
  const watch = (panel: NotebookPanel): void => {
    if (!watched.has(panel)) {
      watched.add(panel);
      new NotebookOffers(app, panel, model, trans);
    }
  };
  tracker.forEach(watch);
  tracker.widgetAdded.connect((_, panel) => watch(panel));
  model.told.connect((_, event) => {
    // Every page hears of it, but only those that show the notebook care.
    const isShown = tracker.find(panel => nameOf(panel) === event.notebook) !== undefined;
    if (event.action === 'revive' && isShown) {
      tellRevival(event, trans);
    }
  });
}

function nameOf(panel: NotebookPanel): string {
  return PathExt.basename(panel.context.localPath);
}

/** Tell that a session came back by itself, or that it could not. */
function tellRevival(event: ICheckpointEvent, trans: TranslationBundle): void {
  const moment = formatMoment(event.checkpoint_created_at ?? '');
  if (event.phase === 'failed') {
    const message = trans.__(
      'The session of %1 could not be restored from the checkpoint of %2, so its kernel is fresh. %3',
      event.notebook ?? '',
      moment,
      event.error?.message ?? ''
    );
    Notification.error(message, { autoClose: false });
    return;
  }
  const why =
    event.reason === 'crash'
      ? trans.__('after a crash')
      : formatTrigger(event.trigger ?? '', trans);
  const message = trans.__('Session restored from the checkpoint of %1 (%2).', moment, why);
  if (event.message) {
    Notification.warning(`${message} ${event.message}`, { autoClose: false });
  } else {
    Notification.info(message, { autoClose: TOLD_MS });
  }
}

/**
 * The offers of one notebook, each with a notification as long as it stands.
 */
class NotebookOffers {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _panel: NotebookPanel,
    private readonly _model: ICheckpointModel,
    private readonly _trans: TranslationBundle
  ) {
    const look = (): void => void this._look();
    const onTold = (_: unknown, event: ICheckpointEvent): void => {
      if (event.action === 'offer') {
        look();
      }
    };
    _model.told.connect(onTold);
    // One that was restored or dismissed elsewhere is no offer any more.
    _model.changed.connect(look);
    _panel.disposed.connect(() => {
      _model.told.disconnect(onTold);
      _model.changed.disconnect(look);
      this._shown.forEach(id => Notification.dismiss(id));
    });
    void Promise.all([_panel.context.ready, _panel.sessionContext.ready]).then(look);
  }

  private async _look(): Promise<void> {
    let offers: IOffer[];
    try {
      offers = await this._model.offers(this._panel.context.localPath);
    } catch (error) {
      if (error instanceof CheckpointError) {
        return; // a server without our extension, or away: nothing to offer
      }
      throw error;
    }
    if (this._panel.isDisposed) {
      return;
    }
    const standing = new Set(offers.map(keyOf));
    for (const [key, id] of this._shown) {
      if (!standing.has(key)) {
        Notification.dismiss(id);
        this._shown.delete(key);
      }
    }
    offers.filter(offer => !this._shown.has(keyOf(offer))).forEach(offer => this._show(offer));
  }

  private _show(offer: IOffer): void {
    const trans = this._trans;
    const created = offer.checkpoint_created_at ?? offer.ended_at;
    const message = trans.__(
      'The kernel of %1 died (%2). Last checkpoint: %3, %4 before.',
      nameOf(this._panel),
      offer.how,
      formatMoment(created),
      formatGap(created, offer.ended_at, trans)
    );
    const id = Notification.warning(message, {
      autoClose: false,
      actions: [
        {
          label: trans.__('Restore'),
          displayType: 'accent',
          callback: () => void this._attempt(() => this._restore(offer))
        },
        {
          label: trans.__('Dismiss'),
          callback: () => void this._attempt(() => this._model.dismiss(offer.kernel_id))
        }
      ]
    });
    this._shown.set(keyOf(offer), id);
  }

  private async _restore(offer: IOffer): Promise<void> {
    const path = this._panel.context.localPath;
    const manifests = await this._model.list(path, offer.kernel_id);
    const manifest = manifests.find(each => each.id === offer.checkpoint);
    if (!manifest) {
      throw new CheckpointError(this._trans.__('That checkpoint has been removed.'));
    }
    const choice = { manifest, withDocument: false };
    const warnings = await restoreHere(this._app, this._panel, this._model, choice, this._trans);
    warnings.forEach(text => Notification.warning(text, { autoClose: false }));
  }

  /** Do it; an error is told, and what still stands is offered again. */
  private async _attempt(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const { message, details } = describe(error);
      Notification.error([message, ...details].join(' '), { autoClose: false });
      this._shown.clear();
      await this._look();
    }
  }

  private readonly _shown = new Map<string, string>();
}

function keyOf(offer: IOffer): string {
  return `${offer.kernel_id} ${offer.ended_at}`;
}
