package ves

// Watches that go on over lost connections and restarts of the server. Never here: what is done with the news.

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "ves.example/client/api/v1"
)

// How long a stream may be silent, in heartbeats, before another is opened.
const silent = 3

type stream[M any] interface{ Recv() (M, error) }

// Watch is a watch. Where the connection is lost it opens another, which goes on after the last message that was handed
// out. Whoever gets Reset forgets what was told before: the server could not go on from there. It ends with its context.
type Watch[M interface{ GetResumeToken() string }] struct {
	ctx     context.Context
	open    func(ctx context.Context, token string) (stream[M], error)
	token   string
	silence time.Duration
	backoff backoff
	now     stream[M]
	drop    context.CancelFunc
}

func newWatch[M interface{ GetResumeToken() string }](
	ctx context.Context, token string, heartbeat *durationpb.Duration,
	open func(ctx context.Context, token string) (stream[M], error),
) *Watch[M] {
	beat := heartbeat.AsDuration()
	if beat <= 0 {
		beat = 30 * time.Second
	}
	return &Watch[M]{ctx: ctx, open: open, token: token, silence: silent * beat, drop: func() {}}
}

// ResumeToken is that of the last message: a watch that begins with it goes on after that.
func (w *Watch[M]) ResumeToken() string { return w.token }

// Next waits for the next message. Its error is final, and an *Error.
func (w *Watch[M]) Next() (M, error) {
	for {
		message, err := w.receive()
		if err == nil {
			w.backoff = backoff{}
			if token := message.GetResumeToken(); token != "" {
				w.token = token
			}
			return message, nil
		}
		w.drop()
		w.now = nil
		if w.ctx.Err() != nil {
			return message, AsError(w.ctx.Err())
		}
		var failed *Error
		if !errors.Is(err, io.EOF) {
			failed = AsError(err)
			// A cancel is ours: it was silent for too long.
			dropped := failed.Code == codes.Canceled && failed.Reason == ""
			if failed.Code != codes.Unavailable && !dropped {
				return message, failed
			}
		}
		sleep(w.ctx, w.backoff.pause(failed))
	}
}

func (w *Watch[M]) receive() (M, error) {
	if w.now == nil {
		ctx, drop := context.WithCancel(w.ctx)
		w.drop = drop
		now, err := w.open(ctx, w.token)
		if err != nil {
			var none M
			return none, err
		}
		w.now = now
	}
	timer := time.AfterFunc(w.silence, w.drop)
	defer timer.Stop()
	return w.now.Recv()
}

// WatchContainers tells of containers: see v1.WatchContainersResponse.
func (c *Client) WatchContainers(ctx context.Context, about *v1.WatchContainersRequest) *Watch[*v1.WatchContainersResponse] {
	return newWatch(ctx, about.GetResumeToken(), about.GetHeartbeat(),
		func(ctx context.Context, token string) (stream[*v1.WatchContainersResponse], error) {
			return c.Containers.WatchContainers(ctx, &v1.WatchContainersRequest{
				ResumeToken: token, Filter: about.GetFilter(), ReadMask: about.GetReadMask(), Heartbeat: about.GetHeartbeat(),
			})
		})
}

// WatchOperations tells of operations: see v1.WatchOperationsResponse.
func (c *Client) WatchOperations(ctx context.Context, about *v1.WatchOperationsRequest) *Watch[*v1.WatchOperationsResponse] {
	return newWatch(ctx, about.GetResumeToken(), about.GetHeartbeat(),
		func(ctx context.Context, token string) (stream[*v1.WatchOperationsResponse], error) {
			return c.Operations.WatchOperations(ctx, &v1.WatchOperationsRequest{
				ResumeToken: token, Filter: about.GetFilter(), Name: about.GetName(), Heartbeat: about.GetHeartbeat(),
			})
		})
}

// WatchEvents tells of events: see v1.WatchEventsResponse.
func (c *Client) WatchEvents(ctx context.Context, about *v1.WatchEventsRequest) *Watch[*v1.WatchEventsResponse] {
	return newWatch(ctx, about.GetResumeToken(), about.GetHeartbeat(),
		func(ctx context.Context, token string) (stream[*v1.WatchEventsResponse], error) {
			return c.Events.WatchEvents(ctx, &v1.WatchEventsRequest{
				ResumeToken: token, Filter: about.GetFilter(), Heartbeat: about.GetHeartbeat(),
			})
		})
}
