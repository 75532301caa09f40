/**
 * The restore dialog: stays open while it works, and tells how it went.
 */
import { Dialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Message } from '@lumino/messaging';
import type { IManifest, IRestoreOptions } from '../manifest';
import { describe } from '../notices';
import { CheckpointChooser } from './chooser';

/** What was asked for in the dialog. */
export interface IChoice {
  manifest: IManifest;
  mode: IRestoreOptions['mode'];
  withDocument: boolean;
}

/** What the dialog shows and does. */
export interface IRestoreDialogOptions {
  /** The notebook's name. */
  notebook: string;
  /** The kernelspec of its present kernel, whose place only its like can take. */
  kernelName: string | null;
  load: () => Promise<IManifest[]>;
  /** Do what was chosen and return the warnings; reject to let the user choose again. */
  act: (choice: IChoice) => Promise<string[]>;
  trans: TranslationBundle;
}

/** The buttons' places in the footer. */
const CANCEL = 0;
const NEW = 1;
const HERE = 2;

/**
 * A dialog whose accepting buttons work first and close only on success.
 */
export class RestoreDialog extends Dialog<void> {
  constructor(options: IRestoreDialogOptions) {
    const { trans } = options;
    const chooser = new CheckpointChooser(options.notebook, options.kernelName, trans);
    const title = trans.__('Restore a checkpoint of %1', options.notebook);
    super({
      title,
      body: chooser,
      buttons: [
        Dialog.cancelButton(),
        Dialog.okButton({
          label: trans.__('Open as new notebook'),
          caption: trans.__('Restore into a copy of the notebook, beside the present session'),
          className: 'jp-ckpt-New',
          displayType: 'default'
        }),
        Dialog.okButton({
          label: trans.__('Restore here'),
          caption: trans.__('Replace the present session of this notebook'),
          className: 'jp-ckpt-Here'
        })
      ],
      defaultButton: HERE,
      focusNodeSelector: '.jp-ckpt-List'
    });
    this._chooser = chooser;
    this._options = options;
    this.addClass('jp-ckpt-RestoreDialog');
    this.node.ariaLabel = title;
    chooser.changed.connect(this._updateButtons, this);
    void this._load();
  }

  /** Show how far the restore has come. */
  progress(fraction: number | null): void {
    if (this._chooser.state.kind === 'working') {
      this._chooser.state = { kind: 'working', fraction };
    }
  }

  /** Act on an accepting button; close on any other, unless at work. */
  override resolve(index: number = HERE): void {
    const mode = index === NEW ? 'new' : 'in-place';
    if (this._chooser.state.kind === 'working') {
      return;
    }
    if (index === CANCEL || this._chooser.state.kind !== 'choosing') {
      super.resolve(CANCEL);
    } else if (this._chooser.selected && (mode === 'new' || this._chooser.fitsHere)) {
      void this._act({
        manifest: this._chooser.selected,
        mode,
        withDocument: this._chooser.withDocument
      });
    }
  }

  /** Close without acting; a restore that has begun is not left out of sight. */
  override reject(): void {
    if (this._chooser.state.kind !== 'working') {
      super.reject();
    }
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._updateButtons();
  }

  private async _load(): Promise<void> {
    try {
      this._chooser.fill(await this._options.load());
    } catch (error) {
      this._chooser.state = { kind: 'choosing', error: describe(error) };
    }
  }

  private async _act(choice: IChoice): Promise<void> {
    this._chooser.state = { kind: 'working', fraction: null };
    try {
      const warnings = await this._options.act(choice);
      if (warnings.length) {
        this._chooser.state = { kind: 'told', warnings };
      } else {
        super.resolve(HERE);
      }
    } catch (error) {
      this._chooser.state = { kind: 'choosing', error: describe(error) };
    }
  }

  private _updateButtons(): void {
    const { state, selected, fitsHere } = this._chooser;
    const buttons = this.node.querySelectorAll<HTMLButtonElement>('.jp-Dialog-footer button');
    buttons.forEach((button, index) => {
      button.hidden = index !== CANCEL && (state.kind === 'told' || !selected);
      button.disabled = state.kind === 'working' || (index === HERE && !fitsHere);
    });
    // It takes the focus only while nothing else can; Tab never stops at it.
    this._chooser.node.removeAttribute('tabindex');
    if (!this.isAttached) {
      return;
    }
    if (state.kind === 'told') {
      const label = buttons[CANCEL].querySelector('.jp-Dialog-buttonLabel') ?? buttons[CANCEL];
      label.textContent = label.ariaLabel = this._options.trans.__('Close');
      buttons[CANCEL].focus();
    } else if (state.kind === 'choosing' && !selected) {
      buttons[CANCEL].focus();
    } else if (state.kind !== 'choosing') {
      // What had the focus is disabled or gone, and the keys would go astray.
      this._chooser.node.tabIndex = -1;
      this._chooser.node.focus();
    }
  }

  private readonly _chooser: CheckpointChooser;
  private readonly _options: IRestoreDialogOptions;
}
