/**
 * The list of checkpoints, newest first, with one selected.
 */
import { Time } from '@jupyterlab/coreutils';
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { formatOrigin, formatSize, titleOf } from '../format';
import type { IManifest } from '../manifest';

export interface IListProps {
  manifests: IManifest[];
  selected: IManifest;
  /** The present kernel's name: that of any other is shown. */
  kernelName: string | null;
  onSelect: (id: string) => void;
  trans: TranslationBundle;
}

export function CheckpointList(props: IListProps): React.JSX.Element {
  const { manifests, selected, kernelName, onSelect, trans } = props;
  const list = React.useRef<HTMLDivElement>(null);
  // The arrow keys choose from the moment the list is there.
  React.useEffect(() => list.current?.focus(), []);

  const onKeyDown = (event: React.KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = step && manifests[manifests.indexOf(selected) + step];
    if (next) {
      event.preventDefault();
      onSelect(next.id);
      document.getElementById(rowId(next))?.scrollIntoView({ block: 'nearest' });
    }
  };

  return (
    <div
      ref={list}
      className="jp-ckpt-List"
      role="listbox"
      aria-label={trans.__('Checkpoints, newest first')}
      aria-activedescendant={rowId(selected)}
      tabIndex={0}
      onKeyDown={onKeyDown}
    >
      {manifests.map(manifest => (
        <Row
          key={manifest.id}
          manifest={manifest}
          isSelected={manifest === selected}
          kernelName={kernelName}
          onClick={() => onSelect(manifest.id)}
          trans={trans}
        />
      ))}
    </div>
  );
}

interface IRowProps {
  manifest: IManifest;
  isSelected: boolean;
  kernelName: string | null;
  onClick: () => void;
  trans: TranslationBundle;
}

function Row({ manifest, isSelected, kernelName, onClick, trans }: IRowProps): React.JSX.Element {
  const time = new Date(manifest.created_at);
  return (
    <div
      id={rowId(manifest)}
      className={isSelected ? 'jp-ckpt-Row jp-mod-selected' : 'jp-ckpt-Row'}
      role="option"
      aria-selected={isSelected}
      data-checkpoint={manifest.id}
      onClick={onClick}
    >
      <span className="jp-ckpt-Row-title">
        <span className={manifest.name ? 'jp-ckpt-Row-name' : 'jp-ckpt-Row-id'}>
          {titleOf(manifest)}
        </span>
        {manifest.pinned && <span className="jp-ckpt-Badge">{trans.__('pinned')}</span>}
        {kernelName && manifest.kernel.name !== kernelName && (
          <span className="jp-ckpt-Badge">{manifest.kernel.name}</span>
        )}
        {manifest.kernel.running && (
          <span className="jp-ckpt-Badge jp-mod-running">{trans.__('cell running')}</span>
        )}
        {manifest.note && <span className="jp-ckpt-Row-note">{manifest.note}</span>}
      </span>
      <span title={time.toLocaleString()}>{Time.formatHuman(time)}</span>
      <span className="jp-ckpt-Row-size">{formatSize(manifest.memory_bytes)}</span>
      <span>{formatOrigin(manifest, trans)}</span>
    </div>
  );
}

function rowId(manifest: IManifest): string {
  return `jp-ckpt-${manifest.id}`;
}
