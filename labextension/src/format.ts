/**
 * Numbers and names as people read them.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IManifest } from './manifest';

/** Keeps number and unit on one line. */
const NBSP = '\u00a0';
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
  return `${value.toFixed(digits)}${NBSP}${UNITS[unit]}`;
}

/** Return a duration in seconds: `0.18 s`, `12 s`. */
export function formatSeconds(seconds: number): string {
  return `${seconds.toFixed(seconds < 10 ? 2 : 0)}${NBSP}s`;
}

/** Return a moment as people say it: the time, with the date when it was another day. */
export function formatMoment(moment: string, now = new Date()): string {
  const then = new Date(moment);
  const time = then.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  return then.toDateString() === now.toDateString() ? time : `${then.toLocaleDateString()} ${time}`;
}

/** Return the time from one moment to a later one: `20 s`, `4 min`, `3 h`, `2 days`. */
export function formatGap(from: string, to: string, trans: TranslationBundle): string {
  const seconds = Math.max(0, (Date.parse(to) - Date.parse(from)) / 1000);
  if (seconds < 60) {
    return trans.__('%1 s', Math.floor(seconds));
  }
  if (seconds < 3600) {
    return trans.__('%1 min', Math.floor(seconds / 60));
  }
  const hours = Math.floor(seconds / 3600);
  return hours < 48 ? trans.__('%1 h', hours) : trans.__('%1 days', Math.floor(hours / 24));
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
export function formatOrigin(manifest: IManifest, trans: TranslationBundle): string {
  // Older versions called it a trigger that memory ran short.
  return formatTrigger(manifest.purpose === 'pressure' ? 'pressure' : manifest.trigger, trans);
}

/** Return what asked for a checkpoint, in a word or two. */
export function formatTrigger(trigger: string, trans: TranslationBundle): string {
  const words: Record<string, string> = {
    manual: trans.__('by hand'),
    magic: '%checkpoint',
    interval: trans.__('on schedule'),
    cell: trans.__('after cells'),
    pressure: trans.__('memory ran short'),
    shutdown: trans.__('at shutdown'),
    cull: trans.__('before cull'),
    api: trans.__('by hand')
  };
  return words[trigger] ?? trigger;
}
