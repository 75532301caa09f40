/**
 * Notifications: progress, results and errors, in the corner of the window.
 */
import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { CheckpointError } from './api';
import { formatSeconds, formatSize, quoted } from './format';
import type { IManifest } from './manifest';

/** Longer texts are cut by the notification's renderer. */
const MAX_CHARS = 140;
const RESULT_MS = 6000;

/**
 * The one notification of one save, from its start to its result.
 */
export class SaveNotice {
  constructor(private readonly _trans: TranslationBundle) {
    this._id = Notification.emit(_trans.__('Saving a checkpoint…'), 'in-progress', {
      autoClose: false
    });
  }

  progress(fraction: number | null): void {
    if (fraction !== null) {
      const percent = Math.floor(fraction * 100);
      const message = this._trans.__('Saving a checkpoint… %1%', percent);
      Notification.update({ id: this._id, message });
    }
  }

  succeed(manifest: IManifest, warnings: string[]): void {
    const message = this._trans.__(
      'Checkpoint %1 saved: %2, paused %3',
      quoted(manifest),
      formatSize(manifest.memory_bytes),
      formatSeconds(manifest.pause_s)
    );
    Notification.update({
      id: this._id,
      type: warnings.length ? 'warning' : 'success',
      message,
      autoClose: warnings.length ? false : RESULT_MS,
      actions: warnings.length
        ? [
            {
              label: this._trans._n('Show %1 warning', 'Show %1 warnings', warnings.length),
              callback: () => void showDetails(message, warnings, this._trans)
            }
          ]
        : []
    });
  }

  fail(error: unknown): void {
    const { message, details } = describe(error);
    const text = [message, ...details].join(' ');
    const title = this._trans.__('The checkpoint was not saved');
    const shown = text.length > MAX_CHARS ? message : text;
    Notification.update({
      id: this._id,
      type: 'error',
      message: shown,
      autoClose: false,
      actions:
        shown !== text || text.length > MAX_CHARS
          ? [
              {
                label: this._trans.__('Show details'),
                callback: () => void showDetails(title, [message, ...details], this._trans)
              }
            ]
          : []
    });
  }

  private readonly _id: string;
}

/** Return an error's message and what else helps: its hint and its log. */
export function describe(error: unknown): { message: string; details: string[] } {
  if (error instanceof CheckpointError) {
    const log = error.log && `Log: ${error.log}`;
    return { message: error.message, details: [error.hint, log].filter(Boolean) };
  }
  return { message: error instanceof Error ? error.message : String(error), details: [] };
}

/** Show paragraphs that do not fit in a notification. */
async function showDetails(
  title: string,
  paragraphs: string[],
  trans: TranslationBundle
): Promise<void> {
  const body = new Widget();
  body.addClass('jp-ckpt-Details');
  for (const text of paragraphs) {
    const paragraph = document.createElement('p');
    paragraph.textContent = text;
    body.node.append(paragraph);
  }
  await showDialog({
    title,
    body,
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}
