package ves

// Why a call or an operation failed, for programs: read from google.rpc.Status. Never here: what is done about it.

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is a field of a request that is wrong.
type Violation struct {
	// Field is its whole path: "container.spec.hostname".
	Field string
	// Message says for people what is wrong with it.
	Message string
}

// Error is why a call failed, or an operation. Branch on Reason; the message is for people and may change.
type Error struct {
	Code codes.Code
	// Reason is its name in v1.Reason without REASON_, such as "NAME_TAKEN"; empty where Ves did not make the
	// status: the connection failed, the deadline passed.
	Reason  string
	Message string
	// Facts are documented at each reason.
	Facts map[string]string
	// Violations are all fields of the request that are wrong.
	Violations []Violation
	// RetryAfter says after how long the same call is worth repeating, where it is.
	RetryAfter time.Duration

	status *status.Status
}

// Error is the reason and the message.
func (e *Error) Error() string {
	if e.Reason == "" {
		return e.Code.String() + ": " + e.Message
	}
	return e.Reason + ": " + e.Message
}

// GRPCStatus is the whole status, for those who know gRPC's own.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// AsError reads the error of a call; nil of nil.
func AsError(err error) *Error {
	var ours *Error
	if err == nil || errors.As(err, &ours) {
		return ours
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ofStatus(status.FromContextError(err))
	}
	return ofStatus(status.Convert(err))
}

// OfStatus reads a status in a message, such as the error of an operation.
func OfStatus(message *rpc.Status) *Error {
	return ofStatus(status.FromProto(message))
}

func ofStatus(from *status.Status) *Error {
	e := &Error{Code: from.Code(), Message: from.Message(), status: from}
	for _, detail := range from.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "ves" {
				e.Reason, e.Facts = detail.Reason, detail.Metadata
			}
		case *errdetails.RetryInfo:
			delay := detail.GetRetryDelay()
			e.RetryAfter = time.Duration(delay.GetSeconds())*time.Second + time.Duration(delay.GetNanos())
		case *errdetails.BadRequest:
			for _, v := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Message: v.GetDescription()})
			}
		}
	}
	return e
}

func newError(code codes.Code, reason, message string) *Error {
	return &Error{Code: code, Reason: reason, Message: message, status: status.New(code, message)}
}
