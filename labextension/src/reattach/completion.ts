/**
 * Completing what a kernel's journal could not keep whole by what a cell shows.
 */
import type * as nbformat from '@jupyterlab/nbformat';
import type { IExecution } from '../manifest';

/** What the journal puts in the place of a stream's beginning. */
const CUT = '[...]\n';
/** So much text is taken for the same place of a stream. */
const SAME_LENGTH = 400;

/**
 * Return the outputs of an execution, with what `shown` has of them where the
 * journal has not.
 *
 * A journal is bounded: it forgets the oldest outputs, the beginnings of long
 * streams, and displays that are very large. A page that has them keeps them.
 */
export function completed(shown: nbformat.IOutput[], execution: IExecution): nbformat.IOutput[] {
  const { outputs, partial = [], forgotten = 0 } = execution;
  const kept = outputs.map((output, index) => {
    const present = shown[forgotten + index];
    return partial.includes(index) && present ? whole(present, output) : output;
  });
  return [...shown.slice(0, forgotten), ...kept];
}

function whole(shown: nbformat.IOutput, kept: nbformat.IOutput): nbformat.IOutput {
  if (kept.output_type !== 'stream') {
    return isDisplay(shown) ? shown : kept;
  }
  if (shown.output_type !== 'stream' || shown.name !== kept.name) {
    return kept;
  }
  const [before, text] = [textOf(shown), textOf(kept)];
  const end = text.startsWith(CUT) ? text.slice(CUT.length) : text;
  const meeting = before.lastIndexOf(end.slice(0, SAME_LENGTH));
  return { ...kept, text: meeting < 0 ? before + text : before.slice(0, meeting) + end };
}

function isDisplay(output: nbformat.IOutput): boolean {
  return output.output_type === 'display_data' || output.output_type === 'execute_result';
}

function textOf(output: nbformat.IOutput): string {
  const { text } = output as nbformat.IStream;
  return Array.isArray(text) ? text.join('') : text;
}
