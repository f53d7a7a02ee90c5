// Package ves is a client of Ves: connect, wait, watch, exec, errors. The messages are in its package api/v1.
package ves

// A connection to a node, its services, and waiting. Never here: the messages, which are generated.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	v1 "ves.example/client/api/v1"
)

// DefaultTarget is the socket of this machine's own node.
const DefaultTarget = "unix:/run/ves/api/coordinator.sock"

// TLS names files of PEM, as `virtctl cert issue` writes them. Without a certificate of its own a client has a token.
type TLS struct{ CA, Cert, Key string }

// Options say how to connect; all may be left out.
type Options struct {
	TLS *TLS
	// Token is a bearer token.
	Token string
	// OnBehalfOf is the panel's own user in whose name it asks.
	OnBehalfOf string
	// RetryFor is how long a call that finds no server is repeated, and not beyond its context's deadline; 0: a
	// minute; less: not at all.
	RetryFor time.Duration
	// Dial are further options of grpc.
	Dial []grpc.DialOption
}

// Client is a connection. What its calls fail with is an *Error; streams fail with gRPC's own, which AsError reads.
type Client struct {
	Access     v1.AccessServiceClient
	Containers v1.ContainerServiceClient
	Events     v1.EventServiceClient
	Nodes      v1.NodeServiceClient
	Operations v1.OperationServiceClient
	Sessions   v1.SessionServiceClient
	Snapshots  v1.SnapshotServiceClient
	Templates  v1.TemplateServiceClient
	Usage      v1.UsageServiceClient
	conn       *grpc.ClientConn
}

// Connect connects to unix:/path or, with TLS, to https://host:port. Nothing is waited for before the first call.
func Connect(target string, options Options) (*Client, error) {
	if options.RetryFor == 0 {
		options.RetryFor = time.Minute
	}
	address, dial, err := options.way(target)
	if err != nil {
		return nil, err
	}
	dial = append(dial,
		grpc.WithChainUnaryInterceptor(options.unary),
		grpc.WithChainStreamInterceptor(options.stream),
		// Retries are here, where the request's id is.
		grpc.WithDisableRetry(),
		// A dead link is noticed within half a minute.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	conn, err := grpc.Dial(address, append(dial, options.Dial...)...)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", target, err)
	}
	return &Client{
		Access:     v1.NewAccessServiceClient(conn),
		Containers: v1.NewContainerServiceClient(conn),
		Events:     v1.NewEventServiceClient(conn),
		Nodes:      v1.NewNodeServiceClient(conn),
		Operations: v1.NewOperationServiceClient(conn),
		Sessions:   v1.NewSessionServiceClient(conn),
		Snapshots:  v1.NewSnapshotServiceClient(conn),
		Templates:  v1.NewTemplateServiceClient(conn),
		Usage:      v1.NewUsageServiceClient(conn),
		conn:       conn,
	}, nil
}

func (o *Options) way(target string) (string, []grpc.DialOption, error) {
	if path := strings.TrimPrefix(target, "unix:"); path != target {
		if o.TLS != nil || o.Token != "" {
			return "", nil, errors.New("on a unix socket the kernel says who is calling; TLS and Token are for https://")
		}
		connect := func(ctx context.Context, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", path)
		}
		return "passthrough:///localhost", []grpc.DialOption{
			grpc.WithInsecure(), grpc.WithAuthority("localhost"), grpc.WithContextDialer(connect),
		}, nil
	}
	address := strings.TrimSuffix(strings.TrimPrefix(target, "https://"), "/")
	if !strings.HasPrefix(target, "https://") {
		return "", nil, fmt.Errorf("%q is neither unix:/path nor https://host:port", target)
	}
	if o.TLS == nil {
		return "", nil, fmt.Errorf("%s needs TLS: the CA, and a certificate or a token", target)
	}
	config, err := o.TLS.config()
	if err != nil {
		return "", nil, err
	}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if o.Token != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(o.Token)))
	}
	return address, dial, nil
}

func (t *TLS) config() (*tls.Config, error) {
	ca, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("cannot read the CA: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate", t.CA)
	}
	if t.Cert != "" || t.Key != "" {
		own, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the client's certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// Close ends all calls and the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Wait answers with the operation as it is after its end, also over a restart of the server; with an *Error where it
// failed, was cancelled, or has not ended before the context did. Progress, if not nil, is told of each change.
func (c *Client) Wait(ctx context.Context, operation *v1.Operation, progress func(*v1.Operation)) (*v1.Operation, error) {
	if ended(operation) {
		return succeeded(operation)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := c.WatchOperations(ctx, &v1.WatchOperationsRequest{Name: operation.GetName()})
	for {
		message, err := watch.Next()
		if err != nil {
			return nil, err
		}
		if message.GetGone() != nil {
			return nil, newError(codes.NotFound, "OPERATION_UNKNOWN", operation.GetName()+" is forgotten")
		}
		now := message.GetChanged()
		if now == nil {
			continue
		}
		if progress != nil {
			progress(now)
		}
		if ended(now) {
			return succeeded(now)
		}
	}
}

func ended(operation *v1.Operation) bool {
	switch operation.GetState() {
	case v1.Operation_STATE_SUCCEEDED, v1.Operation_STATE_FAILED, v1.Operation_STATE_CANCELLED:
		return true
	default:
		return false
	}
}

func succeeded(operation *v1.Operation) (*v1.Operation, error) {
	if operation.GetState() == v1.Operation_STATE_SUCCEEDED {
		return operation, nil
	}
	if operation.GetError() != nil {
		return nil, OfStatus(operation.GetError())
	}
	return nil, newError(codes.Aborted, "CANCELLED", operation.GetName()+" was cancelled")
}
