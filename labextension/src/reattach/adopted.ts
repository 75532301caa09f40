/**
 * Following an execution that this page did not ask for.
 */
import { Kernel, KernelMessage } from '@jupyterlab/services';
import { PromiseDelegate } from '@lumino/coreutils';
import { type ISignal, Signal } from '@lumino/signaling';
import type { IRunningExecution } from '../manifest';

type Request = KernelMessage.IExecuteRequestMsg;
type Reply = KernelMessage.IExecuteReplyMsg;
type IOPub = KernelMessage.IIOPubMessage;
/** What an output area follows: the future of an execute request. */
export type ExecuteFuture = Kernel.IShellFuture<Request, Reply>;

type Hook = (message: IOPub) => boolean | PromiseLike<boolean>;

/**
 * How long the reply may come after 'idle'. It may never come: replies are
 * routed to the connection that asked, which may have gone with a former page.
 */
const REPLY_GRACE_MS = 300;

/** States in which a kernel will not go on with what it ran. */
const ENDED: Kernel.Status[] = ['restarting', 'autorestarting', 'terminating', 'dead'];

/**
 * The future of an execution known only from the kernel's journal.
 *
 * A connection hands messages only to futures of its own, so this one picks
 * them from all messages by their parent's id. To an output area and a cell it
 * is like any other.
 */
export class AdoptedFuture implements ExecuteFuture {
  constructor(
    private readonly _kernel: Kernel.IKernelConnection,
    private readonly _execution: IRunningExecution
  ) {
    this.msg = KernelMessage.createMessage({
      channel: 'shell',
      msgType: 'execute_request',
      msgId: _execution.msg_id,
      session: _execution.session,
      username: '',
      content: { code: _execution.code }
    });
    _kernel.anyMessage.connect(this._onMessage, this);
    _kernel.statusChanged.connect(this._onStatus, this);
    _kernel.disposed.connect(this.dispose, this);
    // Whoever waits is told; that nobody waits is no error.
    this._done.promise.catch(() => undefined);
  }

  readonly msg: Request;
  onIOPub: (message: IOPub) => void | PromiseLike<void> = () => undefined;
  onReply: (message: Reply) => void | PromiseLike<void> = () => undefined;
  onStdin: (message: KernelMessage.IStdinMessage) => void | PromiseLike<void> = () => undefined;

  get done(): Promise<Reply> {
    return this._done.promise;
  }

  get disposed(): ISignal<this, void> {
    return this._disposed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  registerMessageHook(hook: Hook): void {
    this.removeMessageHook(hook);
    this._hooks.push(hook);
  }

  removeMessageHook(hook: Hook): void {
    this._hooks = this._hooks.filter(other => other !== hook);
  }

  sendInputReply(
    content: KernelMessage.IInputReplyMsg['content'],
    parent: KernelMessage.IInputReplyMsg['parent_header']
  ): void {
    this._kernel.sendInputReply(content, parent);
  }

  /** Take a message in, in its turn; others' messages are ignored. */
  offer(message: KernelMessage.IMessage): void {
    const parent = message.parent_header as Partial<KernelMessage.IHeader>;
    if (parent?.msg_id === this._execution.msg_id) {
      this._chain = this._chain
        .then(() => this._handle(message))
        // Or one output that cannot be shown would keep all later ones away, and the end.
        .catch(reason => window.reportError(reason));
    }
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    window.clearTimeout(this._timer);
    this._kernel.anyMessage.disconnect(this._onMessage, this);
    this._kernel.statusChanged.disconnect(this._onStatus, this);
    this._kernel.disposed.disconnect(this.dispose, this);
    this._hooks = [];
    this._done.reject(new Error('Canceled future of an adopted execution'));
    this._disposed.emit();
    Signal.clearData(this);
  }

  private async _handle(message: KernelMessage.IMessage): Promise<void> {
    if (this._isDisposed) {
      return;
    }
    switch (message.channel) {
      case 'iopub':
        await this._handleIOPub(message as IOPub);
        break;
      case 'stdin':
        this._kernel.hasPendingInput = true;
        await this.onStdin(message as KernelMessage.IStdinMessage);
        break;
      case 'shell':
        this._reply = message as Reply;
        await this.onReply(this._reply);
        this._finishIf(this._isIdle);
        break;
    }
  }

  private async _handleIOPub(message: IOPub): Promise<void> {
    let pass = true;
    for (const hook of [...this._hooks].reverse()) {
      pass = pass && (await hook(message));
    }
    if (pass) {
      await this.onIOPub(message);
    }
    if (KernelMessage.isExecuteInputMsg(message)) {
      this._execution.execution_count = message.content.execution_count;
    }
    if (KernelMessage.isErrorMsg(message)) {
      this._failed = true;
    }
    if (KernelMessage.isStatusMsg(message) && message.content.execution_state === 'idle') {
      this._isIdle = true;
      this._finishIf(!!this._reply);
      this._timer = window.setTimeout(() => this._finishIf(true), REPLY_GRACE_MS);
    }
  }

  private _finishIf(isFinished: boolean): void {
    if (!isFinished || this._isDisposed) {
      return;
    }
    this._done.resolve(this._reply ?? this._standIn());
    this.dispose();
  }

  /** Return what the reply would have been, as far as a cell cares. */
  private _standIn(): Reply {
    const content = {
      status: this._failed ? 'error' : 'ok',
      execution_count: this._execution.execution_count
    } as Reply['content'];
    return KernelMessage.createMessage({
      channel: 'shell',
      msgType: 'execute_reply',
      session: this._execution.session,
      username: '',
      parentHeader: this.msg.header,
      content
    } as KernelMessage.IOptions<Reply>);
  }

  private _onMessage(_: unknown, { msg, direction }: Kernel.IAnyMessageArgs): void {
    if (direction === 'recv') {
      this.offer(msg);
    }
  }

  private _onStatus(_: unknown, status: Kernel.Status): void {
    if (ENDED.includes(status)) {
      this.dispose();
    }
  }

  private readonly _done = new PromiseDelegate<Reply>();
  private readonly _disposed = new Signal<this, void>(this);
  private _chain: Promise<void> = Promise.resolve();
  private _hooks: Hook[] = [];
  private _reply: Reply | null = null;
  private _isDisposed = false;
  private _isIdle = false;
  private _failed = false;
  private _timer = 0;
}
