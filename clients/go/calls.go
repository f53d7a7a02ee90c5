package ves

// What is done to every call: its id, its metadata, its retries. Never here: what a call means.

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Calls without a request id that may be repeated all the same.
var harmless = []string{"Get", "List", "BatchGet", "Wait", "Cancel"}

// backoff is how long to wait before the next try: 0.1 s, then twice as long each time, at most 5 s.
type backoff struct{ next time.Duration }

// pause is before the next try; not less than the server asks for.
func (b *backoff) pause(failed *Error) time.Duration {
	pause := b.next
	if pause == 0 {
		pause = 100 * time.Millisecond
	}
	if b.next = pause * 2; b.next > 5*time.Second {
		b.next = 5 * time.Second
	}
	if failed != nil && failed.RetryAfter > pause {
		pause = failed.RetryAfter
	}
	return pause
}

// sleep waits, or as long as the context lives.
func sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// NewRequestID makes one: a random UUID. Who sets it may repeat the call, also from another process.
func NewRequestID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("the system has no random numbers: " + err.Error())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// withRequestID is the request with an id, where it takes one and has none; and whether it takes one. A copy: who makes
// another call with the same message means another change.
func withRequestID(request interface{}) (interface{}, bool) {
	message, ok := request.(proto.Message)
	if !ok {
		return request, false
	}
	field := message.ProtoReflect().Descriptor().Fields().ByName("request_id")
	if field == nil || message.ProtoReflect().Has(field) {
		return request, field != nil
	}
	message = proto.Clone(message)
	message.ProtoReflect().Set(field, protoreflect.ValueOfString(NewRequestID()))
	return message, true
}

func (o *Options) outgoing(ctx context.Context) context.Context {
	if o.OnBehalfOf == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "ves-on-behalf-of", o.OnBehalfOf)
}

// unary gives each change an id, repeats what the server was not there for, and answers with Error.
func (o *Options) unary(
	ctx context.Context, method string, request, reply interface{},
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	request, repeatable := withRequestID(request)
	name := method[strings.LastIndexByte(method, '/')+1:]
	for _, prefix := range harmless {
		repeatable = repeatable || strings.HasPrefix(name, prefix)
	}
	last := time.Now().Add(o.RetryFor)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(last) {
		last = deadline
	}
	var backoff backoff
	for {
		failed := AsError(invoke(o.outgoing(ctx), method, request, reply, conn, options...))
		if failed == nil {
			return nil
		}
		pause := backoff.pause(failed)
		if failed.Code != codes.Unavailable || !repeatable || time.Now().Add(pause).After(last) {
			return failed
		}
		sleep(ctx, pause)
	}
}

func (o *Options) stream(
	ctx context.Context, about *grpc.StreamDesc, conn *grpc.ClientConn, method string,
	open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return open(o.outgoing(ctx), about, conn, method, options...)
}

// Pages hands each page of a list to a function, to the last or to its first error:
//
//	err := ves.Pages(ctx, client.Containers.ListContainers, &v1.ListContainersRequest{}, show)
func Pages[Q proto.Message, P interface{ GetNextPageToken() string }](
	ctx context.Context, list func(context.Context, Q, ...grpc.CallOption) (P, error), request Q, each func(P) error,
) error {
	following := proto.Clone(request).(Q)
	token := following.ProtoReflect().Descriptor().Fields().ByName("page_token")
	for {
		page, err := list(ctx, following)
		if err != nil {
			return err
		}
		if err := each(page); err != nil {
			return err
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		following.ProtoReflect().Set(token, protoreflect.ValueOfString(page.GetNextPageToken()))
	}
}
