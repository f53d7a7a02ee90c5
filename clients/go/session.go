package ves

// Commands that are run inside a container. Never here: retries, as a command may have run.

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	v1 "ves.example/client/api/v1"
)

// What one message may carry.
const piece = 64 << 10

// Command is what is run inside a container.
type Command struct {
	// Argv is the program and its arguments; none: a login shell of root.
	Argv []string
	// Env is further environment, NAME=VALUE.
	Env []string
	// Cwd is the directory it begins in; none: its user's home.
	Cwd string
	// User is whose it is, "NAME" or "NAME:GROUP"; none: root's.
	User string
	// Stdin is its input; nil: none. Who hands in one that blocks for ever leaves a goroutine with it.
	Stdin io.Reader
	// Stdout takes its output; nil: nobody does.
	Stdout io.Writer
	// Stderr takes its error output; nil: nobody does.
	Stderr io.Writer
}

// Ended is how a command ended.
type Ended struct {
	// Code is its exit status; -1 where a signal killed it.
	Code int
	// Signal is what killed it; 0: it exited by itself.
	Signal int
}

// Exec runs a command in containers/… to its end. It is never repeated: it may have run.
func (c *Client) Exec(ctx context.Context, container string, command Command) (Ended, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := c.Sessions.Exec(ctx)
	if err != nil {
		return Ended{}, AsError(err)
	}
	start := &v1.ExecStart{
		Container: container, Argv: command.Argv, Env: command.Env,
		Cwd: command.Cwd, User: command.User,
	}
	// That it could not be sent is told by what is received, with the reason.
	_ = call.Send(&v1.ExecRequest{Part: &v1.ExecRequest_Start{Start: start}})
	unread := make(chan error, 1)
	go func() {
		if err := send(call, command.Stdin); err != nil {
			unread <- err
			cancel()
		}
	}()
	for {
		message, err := call.Recv()
		if err != nil {
			return Ended{}, why(err, unread)
		}
		switch part := message.Part.(type) {
		case *v1.ExecResponse_Stdout:
			err = write(command.Stdout, part.Stdout)
		case *v1.ExecResponse_Stderr:
			err = write(command.Stderr, part.Stderr)
		case *v1.ExecResponse_Exit:
			if signal, killed := part.Exit.How.(*v1.ExitStatus_Signal); killed {
				return Ended{Code: -1, Signal: int(signal.Signal)}, nil
			}
			return Ended{Code: int(part.Exit.GetCode())}, nil
		}
		if err != nil {
			return Ended{}, err
		}
	}
}

// send hands in the input; its error is the reader's.
func send(call v1.SessionService_ExecClient, stdin io.Reader) error {
	for stdin != nil {
		data := make([]byte, piece)
		n, err := stdin.Read(data)
		if n > 0 && call.Send(&v1.ExecRequest{Part: &v1.ExecRequest_Stdin{Stdin: data[:n]}}) != nil {
			// The command has ended, and need not read all that it is given.
			return nil
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	_ = call.Send(&v1.ExecRequest{Part: &v1.ExecRequest_StdinEnd{StdinEnd: &v1.StdinEnd{}}})
	return call.CloseSend()
}

func why(err error, unread <-chan error) error {
	select {
	case err := <-unread:
		return err
	default:
	}
	if errors.Is(err, io.EOF) {
		return newError(codes.Unknown, "", "the session ended without the command's exit status")
	}
	return AsError(err)
}

func write(to io.Writer, data []byte) error {
	if to == nil {
		return nil
	}
	_, err := to.Write(data)
	return err
}
