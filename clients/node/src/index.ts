// Client of Ves: connect, wait, watch, exec, errors, and the messages of ves.api.v1. Never here: code.

export { status as Code } from "@grpc/grpc-js";
export { pages, type CallOptions } from "./calls.js";
export { Client, connect, DEFAULT_TARGET, type Options, type Tls, type WaitOptions } from "./client.js";
export { VesError, type Violation } from "./errors.js";
export type { Ended, ExecOptions } from "./session.js";
export { Watch } from "./watch.js";
export * from "./gen/ves/api/v1/access.js";
export * from "./gen/ves/api/v1/common.js";
export * from "./gen/ves/api/v1/container.js";
export * from "./gen/ves/api/v1/errors.js";
export * from "./gen/ves/api/v1/event.js";
export * from "./gen/ves/api/v1/node.js";
export * from "./gen/ves/api/v1/operation.js";
export * from "./gen/ves/api/v1/session.js";
export * from "./gen/ves/api/v1/snapshot.js";
export * from "./gen/ves/api/v1/template.js";
export * from "./gen/ves/api/v1/usage.js";
