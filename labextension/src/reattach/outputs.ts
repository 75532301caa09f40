/**
 * Making a cell show what a kernel's journal says.
 */
import type { CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';
import { KernelMessage } from '@jupyterlab/services';
import { JSONExt, type ReadonlyPartialJSONValue } from '@lumino/coreutils';
import type { IExecution } from '../manifest';
import type { ExecuteFuture } from './adopted';

/**
 * Replace a cell's outputs by the journal's, as if `future` had received them.
 *
 * Going through the future's handler rather than the model keeps the output
 * area aware of what may still be updated.
 */
export function replay(cell: CodeCell, outputs: nbformat.IOutput[], future: ExecuteFuture): void {
  if (isShown(cell, outputs)) {
    return;
  }
  cell.model.trusted = true;
  cell.model.outputs.clear();
  for (const output of outputs) {
    void future.onIOPub(messageOf(output, future.msg.header));
  }
}

/** Show a finished execution in a cell that has no future for it. */
export function showResult(cell: CodeCell, execution: IExecution): void {
  if (!isShown(cell, execution.outputs)) {
    cell.model.trusted = true;
    cell.model.outputs.fromJSON(execution.outputs);
  }
  cell.model.executionCount = execution.execution_count;
  cell.model.executionState = 'idle';
}

function isShown(cell: CodeCell, outputs: nbformat.IOutput[]): boolean {
  const shown = cell.model.outputs.toJSON();
  return JSONExt.deepEqual(shown.map(comparable), outputs.map(comparable));
}

/** Return an output with its text in one piece, as both sides may split it. */
function comparable(output: nbformat.IOutput): ReadonlyPartialJSONValue {
  const text = output.text;
  return Array.isArray(text) ? { ...output, text: text.join('') } : output;
}

function messageOf(
  output: nbformat.IOutput,
  parentHeader: KernelMessage.IHeader
): KernelMessage.IIOPubMessage {
  const { output_type: msgType, ...content } = output;
  return KernelMessage.createMessage({
    channel: 'iopub',
    msgType,
    session: parentHeader.session,
    username: '',
    parentHeader,
    content
  } as unknown as KernelMessage.IOptions<KernelMessage.IDisplayDataMsg>);
}
