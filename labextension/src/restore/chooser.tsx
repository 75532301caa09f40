/**
 * The body of the restore dialog: what there is, what is chosen, how it goes.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { type ISignal, Signal } from '@lumino/signaling';
import * as React from 'react';
import { quoted } from '../format';
import type { IManifest } from '../manifest';
import { CheckpointDetails } from './details';
import { CheckpointList } from './list';

/** What the dialog shows at a moment. */
export type ChooserState =
  | { kind: 'loading' }
  | { kind: 'choosing'; error?: { message: string; details: string[] } }
  | { kind: 'working'; fraction: number | null }
  | { kind: 'told'; warnings: string[] };

/**
 * A list of checkpoints with one selected, its details, and one option.
 */
export class CheckpointChooser extends ReactWidget {
  constructor(
    private readonly _notebook: string,
    private readonly _kernelName: string | null,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ckpt-Chooser');
  }

  /** Emitted when the state or the selection changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get state(): ChooserState {
    return this._state;
  }

  set state(state: ChooserState) {
    this._state = state;
    this._tell();
  }

  get selected(): IManifest | null {
    return this._manifests.find(manifest => manifest.id === this._selectedId) ?? null;
  }

  /** Whether the notebook's cells and outputs are wanted back, too. */
  get withDocument(): boolean {
    return this._withDocument && !!this.selected?.notebook;
  }

  /** Whether the selected checkpoint can take the place of the present kernel. */
  get fitsHere(): boolean {
    const saved = this.selected?.kernel.name;
    return !saved || !this._kernelName || saved === this._kernelName;
  }

  /** Show these checkpoints, with the first one selected. */
  fill(manifests: IManifest[]): void {
    this._manifests = manifests;
    this._selectedId = manifests[0]?.id ?? null;
    this.state = { kind: 'choosing' };
  }

  protected override render(): React.JSX.Element {
    const trans = this._trans;
    switch (this._state.kind) {
      case 'loading':
        return <Waiting text={trans.__('Looking for checkpoints…')} fraction={null} />;
      case 'working':
        return (
          <Waiting
            text={trans.__('Restoring %1…', this.selected ? quoted(this.selected) : '')}
            fraction={this._state.fraction}
          />
        );
      case 'told':
        return (
          <div className="jp-ckpt-Told">
            <p>{trans.__('The session is back. Please note:')}</p>
            <ul>
              {this._state.warnings.map(text => (
                <li key={text}>{text}</li>
              ))}
            </ul>
          </div>
        );
      case 'choosing':
        return this._renderChoice(this._state.error);
    }
  }

  private _renderChoice(error?: { message: string; details: string[] }): React.JSX.Element {
    const trans = this._trans;
    const selected = this.selected;
    const problem = error && (
      <div className="jp-ckpt-Problem" role="alert">
        <strong>{error.message}</strong>
        {error.details.map(text => (
          <p key={text}>{text}</p>
        ))}
      </div>
    );
    if (!selected) {
      return (
        <>
          {problem ?? (
            <div className="jp-ckpt-Empty">
              <p>{trans.__('No checkpoint of %1 yet.', this._notebook)}</p>
              <p>
                {trans.__(
                  'The flag in the toolbar or %checkpoint in a cell saves the whole session.'
                )}
              </p>
            </div>
          )}
        </>
      );
    }
    return (
      <>
        {problem}
        <CheckpointList
          manifests={this._manifests}
          selected={selected}
          kernelName={this._kernelName}
          onSelect={this._select}
          trans={trans}
        />
        {!this.fitsHere && (
          <p className="jp-ckpt-Misfit" role="status">
            {trans.__(
              'This is of kernel %1 and cannot take the place of the present kernel, %2. Open it as a new notebook.',
              selected.kernel.name,
              this._kernelName ?? ''
            )}
          </p>
        )}
        <CheckpointDetails manifest={selected} trans={trans} />
        <label className="jp-ckpt-Option">
          <input
            type="checkbox"
            checked={this.withDocument}
            disabled={!selected.notebook}
            onChange={event => {
              this._withDocument = event.target.checked;
              this._tell();
            }}
          />
          {trans.__("Also bring back the notebook's cells and outputs as saved")}
        </label>
        <p className="jp-ckpt-Hint">
          {trans.__(
            'Restoring here ends the present session; its state is saved first. A new notebook leaves it alone.'
          )}
        </p>
      </>
    );
  }

  private _select = (id: string): void => {
    this._selectedId = id;
    this._tell();
  };

  private _tell(): void {
    this.update();
    this._changed.emit();
  }

  private _state: ChooserState = { kind: 'loading' };
  private _manifests: IManifest[] = [];
  private _selectedId: string | null = null;
  private _withDocument = false;
  private _changed = new Signal<this, void>(this);
}

function Waiting(props: { text: string; fraction: number | null }): React.JSX.Element {
  return (
    <div className="jp-ckpt-Waiting" role="status">
      <div className="jp-ckpt-Spinner" />
      <p>{props.text}</p>
      {props.fraction !== null && (
        // What comes after the last byte takes its time, too.
        <progress value={props.fraction < 0.99 ? props.fraction : undefined} />
      )}
    </div>
  );
}
