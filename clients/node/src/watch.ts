// Watches that go on over lost connections and restarts of the server. Never here: what is done with the news.

import { setTimeout as sleep } from "node:timers/promises";
import { status as Code, type ClientReadableStream } from "@grpc/grpc-js";
import { Backoff, type CallOptions } from "./calls.js";
import { VesError } from "./errors.js";

// How long a stream may be silent, in heartbeats, before another is opened.
const SILENT = 3;
const HEARTBEAT = 30;

/** What every watch asks for. */
interface Request {
  resumeToken?: string;
  heartbeat?: { seconds?: bigint | number | string; nanos?: number };
}

/**
 * The messages of a watch. Where the connection is lost another is opened, which goes on after the last message that
 * was handed out. Whoever gets `reset` forgets what was told before: the server could not go on from there. It ends
 * when it is left or closed, or throws VesError.
 */
export class Watch<R extends Request, T extends { resumeToken: string }> implements AsyncIterable<T> {
  readonly #open: (request: R, options: CallOptions) => ClientReadableStream<T>;
  readonly #request: R;
  readonly #closed = new AbortController();
  readonly #end: number;
  readonly #silence: number;

  constructor(open: (request: R, options: CallOptions) => ClientReadableStream<T>, request: R, options: CallOptions = {}) {
    this.#open = open;
    this.#request = { ...request };
    this.#end = Date.now() + (options.timeout ?? Infinity);
    const { seconds = 0, nanos = 0 } = request.heartbeat ?? {};
    this.#silence = SILENT * 1e3 * (Number(seconds) + nanos / 1e9 || HEARTBEAT);
    options.signal?.addEventListener("abort", () => this.close(), { once: true });
    if (options.signal?.aborted) this.close();
  }

  /** That of the last message: a watch that begins with it goes on after that. */
  get resumeToken(): string {
    return this.#request.resumeToken ?? "";
  }

  /** Ends it. */
  close(): void {
    this.#closed.abort();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    const { signal } = this.#closed;
    let backoff = new Backoff();
    while (!signal.aborted) {
      let error: VesError | undefined;
      const timeout = Number.isFinite(this.#end) ? this.#end - Date.now() : undefined;
      const call = this.#open(this.#request, { timeout, signal });
      // What comes after it is left is of no interest.
      call.on("error", () => undefined);
      const messages = call[Symbol.asyncIterator]() as AsyncIterator<T>;
      try {
        for (;;) {
          const silent = setTimeout(() => call.cancel(), this.#silence);
          const next = await messages.next().finally(() => clearTimeout(silent));
          if (next.done) break;
          backoff = new Backoff();
          if (next.value.resumeToken) this.#request.resumeToken = next.value.resumeToken;
          yield next.value;
        }
      } catch (failed) {
        error = VesError.of(failed);
        // A cancel is ours: it was closed, or it was silent for too long.
        if (error.code === Code.CANCELLED && error.reason === "") error = undefined;
        else if (error.code !== Code.UNAVAILABLE) throw error;
      } finally {
        call.cancel();
      }
      const pause = backoff.pause(error);
      if (Date.now() + pause > this.#end) {
        throw error ?? new VesError(Code.DEADLINE_EXCEEDED, "the watch took too long");
      }
      // Its end is no failure.
      await sleep(pause, undefined, { signal }).catch(() => undefined);
    }
  }
}
