// A connection to a node, its services, and what is typed with them. Never here: the messages, which are generated.

import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";
import { service, type CallOptions, type Connection } from "./calls.js";
import { VesError } from "./errors.js";
import { AccessServiceDefinition } from "./gen/ves/api/v1/access.js";
import { ContainerServiceDefinition, type WatchContainersRequest } from "./gen/ves/api/v1/container.js";
import { EventServiceDefinition, type WatchEventsRequest } from "./gen/ves/api/v1/event.js";
import { NodeServiceDefinition } from "./gen/ves/api/v1/node.js";
import { Operation, Operation_State, OperationServiceDefinition, type WatchOperationsRequest } from "./gen/ves/api/v1/operation.js";
import { SessionServiceDefinition } from "./gen/ves/api/v1/session.js";
import { SnapshotServiceDefinition } from "./gen/ves/api/v1/snapshot.js";
import { TemplateServiceDefinition } from "./gen/ves/api/v1/template.js";
import { UsageServiceDefinition } from "./gen/ves/api/v1/usage.js";
import { run, type Ended, type ExecOptions } from "./session.js";
import { Watch } from "./watch.js";

/** The socket of this machine's own node. */
export const DEFAULT_TARGET = "unix:/run/ves/api/coordinator.sock";

/** Files of PEM, as `virtctl cert issue` writes them. Without a certificate of its own a client has a token. */
export interface Tls {
  ca: string;
  cert?: string;
  key?: string;
}

/** How to connect. */
export interface Options {
  tls?: Tls;
  /** A bearer token. */
  token?: string;
  /** The panel's own user in whose name it asks. */
  onBehalfOf?: string;
  /** How long a call that finds no server is repeated, in milliseconds, and not beyond its timeout; 60000. */
  retryFor?: number;
  /** Further options of grpc-js. */
  channel?: grpc.ChannelOptions;
}

/** What a wait may be given. */
export interface WaitOptions extends CallOptions {
  /** Is told of each change. */
  progress?: (operation: Operation) => void;
}

const ENDED = [Operation_State.STATE_SUCCEEDED, Operation_State.STATE_FAILED, Operation_State.STATE_CANCELLED];

/** Connects to `unix:/path` or, with `tls`, to `https://host:port`. Nothing is sent before the first call. */
export function connect(target = DEFAULT_TARGET, options: Options = {}): Client {
  const metadata = new grpc.Metadata();
  if (options.onBehalfOf) metadata.set("ves-on-behalf-of", options.onBehalfOf);
  const client = new grpc.Client(target.replace(/^https:\/\/|\/$/g, ""), credentials(target, options), {
    // Retries are here, where the request's id is.
    "grpc.enable_retries": 0,
    // A dead link is noticed within half a minute.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
    ...options.channel,
  });
  return new Client({ client, metadata, retryFor: options.retryFor ?? 60_000 });
}

function credentials(target: string, { tls, token }: Options): grpc.ChannelCredentials {
  if (target.startsWith("unix:")) {
    if (tls || token) throw new TypeError("on a unix socket the kernel says who is calling; tls and token are for https://");
    return grpc.credentials.createInsecure();
  }
  if (!target.startsWith("https://")) throw new TypeError(`${target} is neither unix:/path nor https://host:port`);
  if (!tls) throw new TypeError(`${target} needs tls: the CA, and a certificate or a token`);
  const read = (path?: string) => (path === undefined ? null : readFileSync(path));
  const secure = grpc.credentials.createSsl(read(tls.ca), read(tls.key), read(tls.cert));
  if (!token) return secure;
  const bearer = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(secure, bearer);
}

/** A connection. What its calls throw is VesError; streams of grpc-js emit its own, which VesError.of reads. */
export class Client {
  readonly access;
  readonly containers;
  readonly events;
  readonly nodes;
  readonly operations;
  readonly sessions;
  readonly snapshots;
  readonly templates;
  readonly usage;
  readonly #client: grpc.Client;

  constructor(connection: Connection) {
    this.#client = connection.client;
    this.access = service(connection, AccessServiceDefinition);
    this.containers = service(connection, ContainerServiceDefinition);
    this.events = service(connection, EventServiceDefinition);
    this.nodes = service(connection, NodeServiceDefinition);
    this.operations = service(connection, OperationServiceDefinition);
    this.sessions = service(connection, SessionServiceDefinition);
    this.snapshots = service(connection, SnapshotServiceDefinition);
    this.templates = service(connection, TemplateServiceDefinition);
    this.usage = service(connection, UsageServiceDefinition);
  }

  /** Ends all calls and the connection. */
  close(): void {
    this.#client.close();
  }

  /**
   * The operation as it is after its end, also over a restart of the server. Throws VesError where it failed, was
   * cancelled, or has not ended in time.
   */
  async wait(operation: Operation | string, options: WaitOptions = {}): Promise<Operation> {
    if (typeof operation !== "string" && ENDED.includes(operation.state)) return succeeded(operation);
    const name = typeof operation === "string" ? operation : operation.name;
    const watch = new Watch(this.operations.watchOperations, { name }, options);
    for await (const { event } of watch) {
      if (event?.$case === "gone") {
        throw new VesError(grpc.status.NOT_FOUND, `${name} is forgotten`, "OPERATION_UNKNOWN");
      }
      if (event?.$case !== "changed") continue;
      options.progress?.(event.value);
      if (ENDED.includes(event.value.state)) return succeeded(event.value);
    }
    throw new VesError(grpc.status.CANCELLED, `nobody waits for ${name} any more`);
  }

  /** Tells of containers: see WatchContainersResponse. */
  watchContainers(request: Partial<WatchContainersRequest> = {}, options?: CallOptions) {
    return new Watch(this.containers.watchContainers, request, options);
  }

  /** Tells of operations: see WatchOperationsResponse. */
  watchOperations(request: Partial<WatchOperationsRequest> = {}, options?: CallOptions) {
    return new Watch(this.operations.watchOperations, request, options);
  }

  /** Tells of events: see WatchEventsResponse. */
  watchEvents(request: Partial<WatchEventsRequest> = {}, options?: CallOptions) {
    return new Watch(this.events.watchEvents, request, options);
  }

  /**
   * Runs a command in `containers/…` to its end. Whose connection ends ends it, with its timeout too. It is never
   * repeated: it may have run.
   */
  exec(container: string, argv: string[], options: ExecOptions = {}): Promise<Ended> {
    return run(this.sessions.exec, container, argv, options);
  }
}

function succeeded(operation: Operation): Operation {
  if (operation.state === Operation_State.STATE_SUCCEEDED) return operation;
  if (operation.error) throw VesError.ofStatus(operation.error);
  throw new VesError(grpc.status.ABORTED, `${operation.name} was cancelled`, "CANCELLED");
}
