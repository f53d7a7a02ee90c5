// Commands that are run inside a container. Never here: retries, as a command may have run.

import { once } from "node:events";
import { status as Code } from "@grpc/grpc-js";
import type { CallOptions, Service } from "./calls.js";
import { VesError } from "./errors.js";
import type { ExecResponse, SessionServiceDefinition } from "./gen/ves/api/v1/session.js";

// What one message may carry.
const PIECE = 64 << 10;

/** How a command ended, and what it printed where nobody else took it. */
export interface Ended {
  /** Its exit status; none where a signal killed it. */
  code?: number;
  /** The signal that killed it, if one did. */
  signal?: number;
  stdout: Buffer;
  stderr: Buffer;
}

/** What a command may be given. */
export interface ExecOptions extends CallOptions {
  /** Its input; none: empty. */
  stdin?: Buffer | AsyncIterable<Buffer>;
  /** Further environment, NAME=VALUE. */
  env?: string[];
  /** The directory it begins in; none: its user's home. */
  cwd?: string;
  /** Whose it is, "NAME" or "NAME:GROUP"; none: root's. */
  user?: string;
  /** Takes its output as it comes; none: it is kept. */
  stdout?: (data: Buffer) => void;
  /** Takes its error output. */
  stderr?: (data: Buffer) => void;
  /** How many bytes are kept of each; 16 MiB. */
  maxOutput?: number;
}

type Stream = ReturnType<Service<typeof SessionServiceDefinition>["exec"]>;

/** Runs a command to its end; see Client.exec. */
export async function run(open: (options: CallOptions) => Stream, container: string, argv: string[], options: ExecOptions): Promise<Ended> {
  const call = open(options);
  // What comes after the end is of no interest.
  call.on("error", () => undefined);
  const ended = new AbortController();
  const most = options.maxOutput ?? 16 << 20;
  const [out, err] = [new Output(options.stdout, most), new Output(options.stderr, most)];
  try {
    const { env, cwd, user } = options;
    call.write({ part: { $case: "start", value: { container, argv, env, cwd, user } } });
    // It fails only where the call does, or where what hands in the input does, which ends the call.
    const sent = send(call, options.stdin ?? Buffer.alloc(0), ended.signal);
    const failed = sent.then(() => undefined, (error: unknown) => (call.cancel(), error));
    for await (const { part } of call as AsyncIterable<ExecResponse>) {
      if (part?.$case === "stdout") out.take(part.value);
      else if (part?.$case === "stderr") err.take(part.value);
      else if (part?.$case === "exit") {
        const how = part.value.how;
        const kept = { stdout: out.kept(), stderr: err.kept() };
        return how?.$case === "signal" ? { signal: how.value, ...kept } : { code: how?.value ?? 0, ...kept };
      }
    }
    throw (await failed) ?? new VesError(Code.UNKNOWN, "the session ended without the command's exit status");
  } catch (failed) {
    throw VesError.of(failed);
  } finally {
    ended.abort();
    call.cancel();
  }
}

async function send(call: Stream, stdin: Buffer | AsyncIterable<Buffer>, ended: AbortSignal): Promise<void> {
  try {
    const pieces: Iterable<Buffer> | AsyncIterable<Buffer> = Buffer.isBuffer(stdin) ? [stdin] : stdin;
    for await (const data of pieces) {
      for (let at = 0; at < data.length; at += PIECE) {
        const room = call.write({ part: { $case: "stdin", value: data.subarray(at, at + PIECE) } });
        if (!room) await once(call, "drain", { signal: ended });
      }
    }
    call.write({ part: { $case: "stdinEnd", value: {} } });
    call.end();
  } catch (failed) {
    // The command need not read all that it is given.
    if (!ended.aborted) throw failed;
  }
}

/** Output that is kept up to a bound, or handed on. */
class Output {
  readonly #pieces: Buffer[] = [];
  #bytes = 0;

  constructor(
    readonly to: ((data: Buffer) => void) | undefined,
    readonly most: number,
  ) {}

  take(data: Buffer): void {
    if (this.to) return this.to(data);
    this.#bytes += data.length;
    if (this.#bytes > this.most) {
      const why = `the command prints more than ${this.most} bytes; hand in stdout and stderr, or raise maxOutput`;
      throw new VesError(Code.RESOURCE_EXHAUSTED, why);
    }
    this.#pieces.push(data);
  }

  kept(): Buffer {
    return Buffer.concat(this.#pieces);
  }
}
