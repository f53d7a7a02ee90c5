// Why a call or an operation failed, for programs: read from google.rpc.Status. Never here: what is done about it.

import { status as Code, type ServiceError } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

/** A field of the request that is wrong. */
export interface Violation {
  /** Its whole path: "container.spec.hostname". */
  field: string;
  /** For people: what is wrong with it. */
  message: string;
}

/** A call failed, or an operation did. Branch on `reason`; the message is for people and may change. */
export class VesError extends Error {
  override readonly name = "VesError";
  /** What is documented at each reason. */
  facts: Record<string, string> = {};
  /** All fields of the request that are wrong. */
  violations: Violation[] = [];
  /** After how many milliseconds the same call is worth repeating, where it is. */
  retryAfter: number | undefined;

  constructor(
    /** The code of gRPC. */
    readonly code: Code,
    message: string,
    /**
     * Its name in `Reason` without REASON_, such as "NAME_TAKEN"; empty where Ves did not make the status: the
     * connection failed, the deadline passed.
     */
    public reason = "",
  ) {
    super(message);
  }

  /** Of what a call threw. */
  static of(failed: unknown): VesError {
    if (failed instanceof VesError) return failed;
    const error = failed as Partial<ServiceError>;
    const whole = error.metadata?.get("grpc-status-details-bin")[0];
    if (whole instanceof Buffer) return VesError.ofStatus(Status.decode(whole));
    return new VesError(error.code ?? Code.UNKNOWN, error.details ?? error.message ?? String(failed));
  }

  /** Of a status in a message, such as the error of an operation. */
  static ofStatus(status: Status): VesError {
    const error = new VesError(status.code, status.message);
    for (const { typeUrl, value } of status.details) {
      const type = typeUrl.slice(typeUrl.lastIndexOf("/") + 1);
      if (type === "google.rpc.ErrorInfo") {
        const info = ErrorInfo.decode(value);
        if (info.domain === "ves") [error.reason, error.facts] = [info.reason, info.metadata];
      } else if (type === "google.rpc.RetryInfo") {
        const delay = RetryInfo.decode(value).retryDelay;
        if (delay) error.retryAfter = Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
      } else if (type === "google.rpc.BadRequest") {
        const fields = BadRequest.decode(value).fieldViolations;
        error.violations = fields.map(({ field, description }) => ({ field, message: description }));
      }
    }
    return error;
  }
}
