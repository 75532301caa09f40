/**
 * Making a cell show what a kernel's journal says.
 */
import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { KernelMessage } from '@jupyterlab/services';
import { JSONExt, type ReadonlyPartialJSONValue } from '@lumino/coreutils';
import type { IExecution } from '../manifest';
import type { ExecuteFuture } from './adopted';
import { completed } from './completion';

/**
 * Replace a cell's outputs by the journal's, as if `future` had received them.
 *
 * Going through the future's handler rather than the model keeps the output
 * area aware of what may still be updated. `isNew` tells that it never heard
 * of them by itself.
 */
export function replay(
  cell: CodeCell,
  execution: IExecution,
  future: ExecuteFuture,
  isNew: boolean
): void {
  const shown = cell.model.outputs.toJSON();
  const outputs = completed(shown, execution);
  const displayIds = execution.display_ids ?? {};
  const mayBeUpdated = Object.keys(displayIds).length > 0;
  if (areSame(shown, outputs) && !(isNew && mayBeUpdated)) {
    return;
  }
  const before = outputs.length - execution.outputs.length;
  cell.model.trusted = true;
  cell.model.outputs.clear();
  outputs.forEach((output, index) => {
    void future.onIOPub(messageOf(output, future.msg.header, displayIds[index - before]));
  });
}

/** Show a finished execution in a cell that has no future for it. */
export function showResult(cell: CodeCell, execution: IExecution): void {
  const shown = cell.model.outputs.toJSON();
  const outputs = completed(shown, execution);
  if (!areSame(shown, outputs)) {
    cell.model.trusted = true;
    cell.model.outputs.fromJSON(outputs);
  }
  cell.model.executionCount = execution.execution_count;
  cell.model.executionState = 'idle';
}

function areSame(shown: nbformat.IOutput[], outputs: nbformat.IOutput[]): boolean {
  return JSONExt.deepEqual(shown.map(comparable), outputs.map(comparable));
}

/** Return an output with its text in one piece, as both sides may split it. */
function comparable(output: nbformat.IOutput): ReadonlyPartialJSONValue {
  const text = output.text;
  return Array.isArray(text) ? { ...output, text: text.join('') } : output;
}

function messageOf(
  output: nbformat.IOutput,
  parentHeader: KernelMessage.IHeader,
  displayId: string | undefined
): KernelMessage.IIOPubMessage {
  const { output_type: msgType, ...content } = output;
  if (displayId !== undefined) {
    content.transient = { display_id: displayId };
  }
  return KernelMessage.createMessage({
    channel: 'iopub',
    msgType,
    session: parentHeader.session,
    username: '',
    parentHeader,
    content
  } as unknown as KernelMessage.IOptions<KernelMessage.IDisplayDataMsg>);
}
