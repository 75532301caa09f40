/**
 * Numbers and names as people read them.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IManifest } from './manifest';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** Return a size with three digits or so: `212 MB`, `1.4 GB`. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit > 0 && value < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Return a duration in seconds: `0.18 s`, `12 s`. */
export function formatSeconds(seconds: number): string {
  return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
}

/** Return the short form of a checkpoint's id. */
export function shortId(id: string): string {
  return `${id.slice(0, 8)}…`;
}

/** Return what a person calls a checkpoint: its name, else its short id. */
export function titleOf(manifest: IManifest): string {
  return manifest.name ?? shortId(manifest.id);
}

/** Return a checkpoint's title as part of a sentence. */
export function quoted(manifest: IManifest): string {
  return manifest.name ? `“${manifest.name}”` : titleOf(manifest);
}

/** Return how a checkpoint came to be, in a word or two. */
export function formatTrigger(trigger: string, trans: TranslationBundle): string {
  const words: Record<string, string> = {
    manual: trans.__('by hand'),
    magic: '%checkpoint',
    interval: trans.__('on schedule'),
    cell: trans.__('after cells'),
    shutdown: trans.__('at shutdown'),
    cull: trans.__('before cull'),
    api: trans.__('by hand')
  };
  return words[trigger] ?? trigger;
}
