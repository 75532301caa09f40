/**
 * The toolbar button, one for each notebook.
 */
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import {
  addToolbarButtonClass,
  ReactWidget,
  ToolbarButtonComponent
} from '@jupyterlab/ui-components';
import * as React from 'react';
import { busyIcon, saveIcon } from './icons';
import type { ICheckpointModel } from './tokens';

/**
 * 'Save checkpoint' for one notebook; busy while its kernel is saved by anyone.
 */
export class SaveButton extends ReactWidget {
  constructor(
    private readonly _panel: NotebookPanel,
    private readonly _model: ICheckpointModel,
    private readonly _save: (panel: NotebookPanel) => void,
    private readonly _trans: TranslationBundle
  ) {
    super();
    addToolbarButtonClass(this);
    _model.progressed.connect(this._onChange, this);
    _panel.sessionContext.kernelChanged.connect(this._onChange, this);
    _panel.sessionContext.statusChanged.connect(this._onChange, this);
  }

  protected override render(): React.JSX.Element {
    const kernel = this._panel.sessionContext.session?.kernel;
    const saving = !!kernel && this._model.isSaving(kernel.id);
    return (
      <ToolbarButtonComponent
        className={saving ? 'jp-ckpt-SaveButton jp-mod-saving' : 'jp-ckpt-SaveButton'}
        icon={saving ? busyIcon : saveIcon}
        enabled={!!kernel && !saving}
        tooltip={this._trans.__('Save checkpoint: all of this session, to come back to')}
        disabledTooltip={
          saving ? this._trans.__('Saving a checkpoint…') : this._trans.__('No kernel to save')
        }
        noFocusOnClick
        onClick={() => this._save(this._panel)}
      />
    );
  }

  private _onChange(): void {
    this.update();
  }
}
