/**
 * The commands behind button, menu, palette and shortcut.
 */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { restoreIcon, saveIcon } from './icons';
import type { IManifest } from './manifest';
import { SaveNotice } from './notices';
import { chooseAndRestore } from './restore/flow';
import type { ICheckpointModel } from './tokens';

export const CommandIds = { save: 'ckpt:save', restore: 'ckpt:restore' };

/**
 * Save a notebook's document, then its kernel, telling how it goes.
 *
 * Returns the checkpoint, or undefined when there is none: the error was shown.
 */
export async function saveCheckpoint(
  panel: NotebookPanel,
  model: ICheckpointModel,
  trans: TranslationBundle,
  name?: string
): Promise<IManifest | undefined> {
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel || model.isSaving(kernel.id)) {
    return undefined;
  }
  const notice = new SaveNotice(trans);
  try {
    const warnings: string[] = [];
    if (panel.context.model.dirty && !(await savedDocument(panel))) {
      warnings.push(
        trans.__('The notebook could not be saved: its file on disk belongs to the checkpoint.')
      );
    }
    const manifest = await model.save(kernel.id, name ? { name } : {}, fraction =>
      notice.progress(fraction)
    );
    notice.succeed(manifest, [...manifest.warnings, ...warnings]);
    return manifest;
  } catch (error) {
    notice.fail(error);
    return undefined;
  }
}

/** Save the document; false when that failed, which its own dialog has told. */
async function savedDocument(panel: NotebookPanel): Promise<boolean> {
  if (panel.context.model.readOnly) {
    return false;
  }
  try {
    await panel.context.save();
    return true;
  } catch {
    return false;
  }
}

/**
 * Add the commands, and keep their enabled state up to date.
 */
export function addCommands(
  app: JupyterFrontEnd,
  tracker: INotebookTracker,
  model: ICheckpointModel,
  trans: TranslationBundle
): void {
  const { commands } = app;
  const kernelId = (): string | undefined =>
    tracker.currentWidget?.sessionContext.session?.kernel?.id;

  commands.addCommand(CommandIds.save, {
    label: trans.__('Save Checkpoint'),
    caption: trans.__('Save the whole session of this notebook, to come back to'),
    icon: args => (args.isPalette ? undefined : saveIcon),
    isEnabled: () => {
      const id = kernelId();
      return !!id && !model.isSaving(id);
    },
    describedBy: {
      args: {
        type: 'object',
        properties: {
          name: { type: 'string', description: trans.__('The name of the checkpoint') }
        }
      }
    },
    execute: args => {
      const panel = tracker.currentWidget;
      const name = typeof args.name === 'string' ? args.name : undefined;
      return panel ? saveCheckpoint(panel, model, trans, name) : undefined;
    }
  });
  commands.addCommand(CommandIds.restore, {
    label: trans.__('Restore Checkpoint…'),
    caption: trans.__('Bring back a saved session of this notebook'),
    icon: args => (args.isPalette ? undefined : restoreIcon),
    isEnabled: () => !!tracker.currentWidget,
    describedBy: { args: { type: 'object', properties: {} } },
    execute: () => {
      const panel = tracker.currentWidget;
      return panel ? chooseAndRestore(app, panel, model, trans) : undefined;
    }
  });

  const notify = (): void => {
    commands.notifyCommandChanged(CommandIds.save);
    commands.notifyCommandChanged(CommandIds.restore);
  };
  tracker.widgetAdded.connect((_, panel) => {
    panel.sessionContext.kernelChanged.connect(notify);
    panel.sessionContext.statusChanged.connect(notify);
  });
  tracker.currentChanged.connect(notify);
  model.progressed.connect(notify);
}
