/**
 * What a restore means for the page: sessions, documents and open notebooks.
 */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { CheckpointError } from '../api';
import { quoted } from '../format';
import type { IRestored, IRestoreOptions } from '../manifest';
import type { ICheckpointModel, IProgress } from '../tokens';
import { type IChoice, RestoreDialog } from './dialog';

/** Let the user choose one of the notebook's checkpoints, and restore it. */
export async function chooseAndRestore(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  model: ICheckpointModel,
  trans: TranslationBundle
): Promise<void> {
  const path = panel.context.localPath;
  const kernel = panel.sessionContext.session?.kernel;
  let copy: string | null = null;
  const dialog = new RestoreDialog({
    notebook: PathExt.basename(path),
    kernelName: kernel?.name ?? null,
    trans,
    load: () => model.list(path, kernel?.id),
    act: async choice => {
      if (choice.mode === 'in-place') {
        return restoreHere(app, panel, model, choice, trans);
      }
      const { notebook, session, warnings } = await model.restore(choice.manifest.id, {
        mode: 'new',
        path
      });
      copy = session?.path ?? notebook;
      return warnings;
    }
  });
  const onProgress = (_: unknown, progress: IProgress): void => {
    if (progress.action === 'restore' && progress.active) {
      dialog.progress(progress.fraction);
    }
  };
  model.progressed.connect(onProgress);
  try {
    await dialog.launch();
  } finally {
    model.progressed.disconnect(onProgress);
  }
  // A closing dialog gives the focus back: what is opened earlier would lose it.
  if (copy) {
    await openCopy(app, copy);
  }
}

/**
 * Replace the session of a notebook by the checkpoint's.
 *
 * The kernel keeps its id and usually its connection, so nothing has to be
 * reloaded; `ICheckpointModel.restored` makes the page's cells agree with it.
 */
export async function restoreHere(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  model: ICheckpointModel,
  { manifest, withDocument }: Pick<IChoice, 'manifest' | 'withDocument'>,
  trans: TranslationBundle
): Promise<string[]> {
  const document = withDocument ? await model.notebook(manifest.id) : null;
  const { kernel_id, warnings } = await replaceKernel(panel, model, manifest.id);
  if (panel.isDisposed) {
    return warnings;
  }
  if (document) {
    panel.context.model.fromJSON(document);
  }
  await connect(app, panel, kernel_id);
  Notification.success(trans.__('Checkpoint %1 is restored.', quoted(manifest)), {
    autoClose: 4000
  });
  return warnings;
}

/** Restore in place of the notebook's kernel; of the session anew when that kernel is gone. */
async function replaceKernel(
  panel: NotebookPanel,
  model: ICheckpointModel,
  id: string
): Promise<IRestored> {
  const options: IRestoreOptions = { mode: 'in-place', path: panel.context.localPath };
  const kernelId = panel.sessionContext.session?.kernel?.id;
  if (kernelId) {
    try {
      return await model.restore(id, { ...options, kernel_id: kernelId });
    } catch (error) {
      if (!(error instanceof CheckpointError && error.id === 'kernel-not-found')) {
        throw error;
      }
      // The page still shows a kernel that the server has lost: nothing is replaced then.
    }
  }
  return model.restore(id, options);
}

/** Make a notebook talk to a kernel, unless it already does. */
async function connect(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  kernelId: string
): Promise<void> {
  await app.serviceManager.sessions.refreshRunning();
  const kernel = panel.sessionContext.session?.kernel;
  // A connection that saw its kernel die never opens again.
  if (kernel?.id !== kernelId || kernel.status === 'dead') {
    await panel.sessionContext.changeKernel({ id: kernelId });
  }
}

/** Open the copy of a notebook that was restored beside the present session. */
async function openCopy(app: JupyterFrontEnd, path: string): Promise<void> {
  // Its session exists already and must be known, or a second one is started.
  await app.serviceManager.sessions.refreshRunning();
  await app.commands.execute('docmanager:open', { path });
}
