/**
 * Checkpoints in JupyterLab: button, menu, dialog, and cells that go on.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { CheckpointApi } from './api';
import { addCommands, CommandIds, saveCheckpoint } from './commands';
import { CheckpointEvents } from './events';
import { CheckpointModel } from './model';
import { watchOffers } from './offers';
import { watchNotebooks } from './reattach/watcher';
import { ICheckpointModel } from './tokens';
import { SaveButton } from './toolbar';

export { ICheckpointModel } from './tokens';
export type { IProgress } from './tokens';
export type * from './manifest';

const model: JupyterFrontEndPlugin<ICheckpointModel> = {
  id: '@jupyter-ckpt/labextension:model',
  description: 'Provides the checkpoints of this server to other parts of the interface.',
  autoStart: true,
  provides: ICheckpointModel,
  activate: (app: JupyterFrontEnd) => {
    const { serverSettings, events } = app.serviceManager;
    return new CheckpointModel(new CheckpointApi(serverSettings), new CheckpointEvents(events));
  }
};

const commands: JupyterFrontEndPlugin<void> = {
  id: '@jupyter-ckpt/labextension:plugin',
  description: 'Saves and restores the session of a notebook: button, menu and palette.',
  autoStart: true,
  requires: [INotebookTracker, ICheckpointModel],
  optional: [ITranslator, ICommandPalette, IToolbarWidgetRegistry],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    model: ICheckpointModel,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    toolbars: IToolbarWidgetRegistry | null
  ) => {
    const trans = (translator ?? nullTranslator).load('jupyter_ckpt');
    addCommands(app, tracker, model, trans);
    const category = trans.__('Kernel Operations');
    palette?.addItem({ command: CommandIds.save, category, args: { isPalette: true } });
    palette?.addItem({ command: CommandIds.restore, category, args: { isPalette: true } });
    const save = (panel: NotebookPanel): void => void saveCheckpoint(panel, model, trans);
    toolbars?.addFactory<NotebookPanel>(
      'Notebook',
      'save-checkpoint',
      panel => new SaveButton(panel, model, save, trans)
    );
  }
};

const reattach: JupyterFrontEndPlugin<void> = {
  id: '@jupyter-ckpt/labextension:reattach',
  description: 'Lets cells go on showing what runs, after a restore or a reload.',
  autoStart: true,
  requires: [INotebookTracker, ICheckpointModel],
  activate: (_: JupyterFrontEnd, tracker: INotebookTracker, model: ICheckpointModel) =>
    watchNotebooks(tracker, model)
};

const offers: JupyterFrontEndPlugin<void> = {
  id: '@jupyter-ckpt/labextension:offers',
  description: 'Tells of sessions that came back, and offers those that ended unplanned.',
  autoStart: true,
  requires: [INotebookTracker, ICheckpointModel],
  optional: [ITranslator],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    model: ICheckpointModel,
    translator: ITranslator | null
  ) => watchOffers(app, tracker, model, (translator ?? nullTranslator).load('jupyter_ckpt'))
};

export default [model, commands, reattach, offers];
