// What is done to every call: its types, its id, its metadata, its retries. Never here: what a call means.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { VesError } from "./errors.js";

interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
  fromPartial(object: any): T;
}

interface Method {
  readonly name: string;
  readonly requestType: Message<any>;
  readonly responseType: Message<any>;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

interface Definition {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, Method>>;
}

/** What a call may be given beside its request. */
export interface CallOptions {
  /** How long it may take, in milliseconds. */
  timeout?: number;
  /** Ends it. */
  signal?: AbortSignal;
}

type Input<M extends Method> = Parameters<M["requestType"]["fromPartial"]>[0];
type Output<M extends Method> = ReturnType<M["responseType"]["decode"]>;

type Call<M extends Method> = M["requestStream"] extends true
  ? (options?: CallOptions) => grpc.ClientDuplexStream<Input<M>, Output<M>>
  : M["responseStream"] extends true
    ? (request: Input<M>, options?: CallOptions) => grpc.ClientReadableStream<Output<M>>
    : (request: Input<M>, options?: CallOptions) => Promise<Output<M>>;

/** A service's calls: promises, and streams as grpc-js has them. Fields of a request that are left out are empty. */
export type Service<D extends Definition> = { [N in keyof D["methods"]]: Call<D["methods"][N]> };

/** How long to wait before the next try: 0.1 s, then twice as long each time, at most 5 s. */
export class Backoff {
  #next = 100;

  /** Before the next try, in milliseconds; not less than the server asks for. */
  pause(error?: VesError): number {
    const pause = this.#next * (0.8 + 0.4 * Math.random());
    this.#next = Math.min(this.#next * 2, 5000);
    return Math.max(pause, error?.retryAfter ?? 0);
  }
}

/** A connection, before there are services on it. */
export interface Connection {
  client: grpc.Client;
  metadata: grpc.Metadata;
  /** How long a call that finds no server is repeated, in milliseconds. */
  retryFor: number;
}

/** The calls of a service over a connection. */
export function service<D extends Definition>(connection: Connection, definition: D): Service<D> {
  const calls: Record<string, unknown> = {};
  for (const [name, method] of Object.entries(definition.methods)) {
    const path = `/${definition.fullName}/${method.name}`;
    calls[name] = method.requestStream
      ? (options?: CallOptions) => duplex(connection, path, method, options)
      : method.responseStream
        ? (request: unknown, options?: CallOptions) => stream(connection, path, method, request, options)
        : (request: unknown, options?: CallOptions) => unary(connection, path, method, request, options);
  }
  return calls as Service<D>;
}

// Calls without a request id that may be repeated all the same.
const HARMLESS = /^(Get|List|BatchGet|Wait|Cancel)/;

async function unary(at: Connection, path: string, method: Method, input: unknown, options: CallOptions = {}) {
  // A copy: who makes another call with the same object means another change.
  const request = method.requestType.fromPartial(input);
  const named = "requestId" in request;
  if (named && request.requestId === "") request.requestId = randomUUID();
  const repeatable = named || HARMLESS.test(method.name);
  const began = Date.now();
  const backoff = new Backoff();
  for (;;) {
    const left = options.timeout === undefined ? undefined : options.timeout - (Date.now() - began);
    try {
      return await once(at, path, method, request, { ...options, timeout: left });
    } catch (failed) {
      const error = VesError.of(failed);
      const pause = backoff.pause(error);
      const last = began + Math.min(options.timeout ?? Infinity, at.retryFor);
      if (error.code !== grpc.status.UNAVAILABLE || !repeatable || Date.now() + pause > last) throw error;
      await sleep(pause, undefined, { signal: options.signal }).catch(() => {
        throw error;
      });
    }
  }
}

function once(at: Connection, path: string, method: Method, request: unknown, options: CallOptions) {
  return new Promise((resolve, reject) => {
    const { encode, decode } = codec(method);
    const call = at.client.makeUnaryRequest(path, encode, decode, request, at.metadata, deadline(options), (error, answer) => {
      options.signal?.removeEventListener("abort", cancel);
      if (error) reject(error);
      else resolve(answer);
    });
    const cancel = () => call.cancel();
    options.signal?.addEventListener("abort", cancel, { once: true });
    if (options.signal?.aborted) cancel();
  });
}

function stream(at: Connection, path: string, method: Method, input: unknown, options: CallOptions = {}) {
  const { encode, decode } = codec(method);
  const request = method.requestType.fromPartial(input);
  const call = at.client.makeServerStreamRequest(path, encode, decode, request, at.metadata, deadline(options));
  return cancellable(call, options);
}

function duplex(at: Connection, path: string, method: Method, options: CallOptions = {}) {
  const { encode, decode } = codec(method);
  const partial = (message: unknown) => encode(method.requestType.fromPartial(message));
  return cancellable(at.client.makeBidiStreamRequest(path, partial, decode, at.metadata, deadline(options)), options);
}

function cancellable<C extends grpc.ClientReadableStream<any>>(call: C, { signal }: CallOptions): C {
  const cancel = () => call.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  call.once("close", () => signal?.removeEventListener("abort", cancel));
  if (signal?.aborted) cancel();
  return call;
}

function codec(method: Method) {
  return {
    encode: (message: unknown) => Buffer.from(method.requestType.encode(message).finish()),
    decode: (bytes: Buffer) => method.responseType.decode(bytes),
  };
}

function deadline({ timeout }: CallOptions): grpc.CallOptions {
  return timeout === undefined ? {} : { deadline: Date.now() + Math.max(timeout, 1) };
}

/** The pages of a list, to the last: `for await (const page of pages(client.containers.listContainers, {}))`. */
export async function* pages<R extends object, P extends { nextPageToken: string }>(
  list: (request: R) => Promise<P>,
  request: R,
): AsyncGenerator<P, void, undefined> {
  let pageToken: string | undefined;
  do {
    const page = await list(pageToken === undefined ? request : { ...request, pageToken });
    yield page;
    pageToken = page.nextPageToken;
  } while (pageToken);
}
