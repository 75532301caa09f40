/**
 * Everything worth knowing about one checkpoint before going back to it.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import { formatSeconds, formatSize } from '../format';
import type { IManifest } from '../manifest';

export interface IDetailsProps {
  manifest: IManifest;
  trans: TranslationBundle;
}

export function CheckpointDetails({ manifest, trans }: IDetailsProps): React.JSX.Element {
  const { kernel, processes } = manifest;
  const children = processes.length - 1;
  const session = [
    kernel.execution_count ? trans.__('up to [%1]', kernel.execution_count) : '',
    kernel.running ? trans.__('a cell was running and will go on') : '',
    children > 0 ? trans._n('%1 more process', '%1 more processes', children) : ''
  ].filter(Boolean);
  const rows: [string, string][] = [
    [trans.__('Id'), manifest.id],
    [trans.__('Saved'), new Date(manifest.created_at).toLocaleString()],
    [trans.__('Kernel'), [kernel.name, ...session].join(', ')],
    [
      trans.__('Size'),
      trans.__(
        '%1 of memory, %2 new on disk, paused %3',
        formatSize(manifest.memory_bytes),
        formatSize(manifest.stored_bytes),
        formatSeconds(manifest.pause_s)
      )
    ]
  ];
  if (manifest.notebook) {
    rows.push([trans.__('Notebook'), manifest.notebook.path]);
  }
  if (manifest.warnings.length) {
    rows.push([trans.__('Warnings'), manifest.warnings.join('\n')]);
  }
  return (
    <dl className="jp-ckpt-Facts">
      {rows.map(([name, value]) => (
        <React.Fragment key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </React.Fragment>
      ))}
    </dl>
  );
}
