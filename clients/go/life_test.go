package ves

// One container's life on a real node.
//
// The environment says which node: VES_TEST_TARGET, and for https VES_TEST_CA, VES_TEST_CERT and VES_TEST_KEY;
// VES_TEST_TEMPLATE names a template, VES_TEST_CT an id, VES_TEST_ADDRESS an address that are free.

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	v1 "ves.example/client/api/v1"
)

func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv("VES_TEST_" + name)
	if value == "" {
		t.Fatalf("VES_TEST_%s is not set", name)
	}
	return value
}

func open(t *testing.T, target string) *Client {
	t.Helper()
	options := Options{RetryFor: 20 * time.Second}
	if os.Getenv("VES_TEST_CA") != "" {
		options.TLS = &TLS{CA: env(t, "CA"), Cert: env(t, "CERT"), Key: env(t, "KEY")}
	}
	client, err := Connect(target, options)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// way is one to the server that can be cut.
type way struct {
	target string
	lock   sync.Mutex
	up     bool
	open   []net.Conn
}

func newWay(t *testing.T, target string) *way {
	t.Helper()
	network, address := "unix", strings.TrimPrefix(target, "unix:")
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	must(t, err)
	w := &way{target: "unix:" + listener.Addr().String(), up: true}
	if address == target {
		listener.Close()
		network, address = "tcp", strings.TrimPrefix(target, "https://")
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		// The name stands in the server's certificate.
		w.target = "https://localhost:" + strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	}
	t.Cleanup(func() { listener.Close(); w.cut() })
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial(network, address)
			w.lock.Lock()
			if err != nil || !w.up {
				here.Close()
			} else {
				w.open = append(w.open, here, there)
				go io.Copy(here, there)
				go io.Copy(there, here)
			}
			w.lock.Unlock()
		}
	}()
	return w
}

func (w *way) cut() {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.up = false
	for _, each := range w.open {
		each.Close()
	}
	w.open = nil
}

func (w *way) mend() {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.up = true
}

func TestLife(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	target, address := env(t, "TARGET"), env(t, "ADDRESS")
	ct, err := strconv.ParseUint(env(t, "CT"), 10, 32)
	must(t, err)
	name := "containers/" + env(t, "CT")
	client := open(t, target)
	done := func(operation *v1.Operation, err error) *v1.Operation {
		t.Helper()
		must(t, err)
		operation, err = client.Wait(ctx, operation, nil)
		must(t, err)
		return operation
	}
	fails := func(err error) *Error {
		t.Helper()
		if err == nil {
			t.Fatal("it succeeds")
		}
		return AsError(err)
	}

	// Create, and the same again by the same request id.
	spec := &v1.ContainerSpec{
		Template: "templates/" + env(t, "TEMPLATE"),
		Hostname: "life",
		Interfaces: []*v1.Interface{{
			Id: "venet0", Type: v1.Interface_TYPE_VENET, Addresses: []string{address},
		}},
		Volumes: []*v1.Volume{{Id: "root", SizeBytes: 128 << 20}},
	}
	request := &v1.CreateContainerRequest{
		Container: &v1.Container{Spec: spec, Labels: map[string]string{"client": "go"}},
		CtId:      uint32(ct),
		RequestId: NewRequestID(),
	}
	operation, err := client.Containers.CreateContainer(ctx, request)
	must(t, err)
	again, err := client.Containers.CreateContainer(ctx, request)
	must(t, err)
	same(t, again.GetName(), operation.GetName())
	same(t, strings.Join(done(operation, nil).GetTargets(), " "), name)
	container, err := client.Containers.GetContainer(ctx, &v1.GetContainerRequest{Name: name})
	must(t, err)
	same(t, container.GetLabels()["client"], "go")

	// Start.
	operation, err = client.Containers.StartContainer(ctx, &v1.StartContainerRequest{Name: name})
	must(t, err)
	told := 0
	_, err = client.Wait(ctx, operation, func(*v1.Operation) { told++ })
	must(t, err)
	same(t, told > 0, true)
	listed := map[string]bool{}
	must(t, Pages(ctx, client.Containers.ListContainers, &v1.ListContainersRequest{PageSize: 1},
		func(page *v1.ListContainersResponse) error {
			for _, each := range page.GetContainers() {
				listed[each.GetName()] = true
			}
			return nil
		}))
	same(t, listed[name], true)

	// A command with input that takes more than one message, error output and a status.
	var stdout, stderr bytes.Buffer
	end, err := client.Exec(ctx, name, Command{
		Argv:  []string{"/bin/sh", "-c", "wc -c; echo no >&2; exit 7"},
		Stdin: bytes.NewReader(make([]byte, 400_000)), Stdout: &stdout, Stderr: &stderr,
	})
	must(t, err)
	same(t, end, Ended{Code: 7})
	same(t, strings.TrimSpace(stdout.String()), "400000")
	same(t, stderr.String(), "no\n")
	end, err = client.Exec(ctx, name, Command{Argv: []string{"/bin/sh", "-c", "kill -9 $$"}})
	must(t, err)
	same(t, end, Ended{Code: -1, Signal: 9})

	// A watch goes on where it was, over a lost connection, without a reset.
	way := newWay(t, target)
	watch := open(t, way.target).WatchContainers(ctx, &v1.WatchContainersRequest{Filter: `labels.client="go"`})
	known := map[string]bool{}
	for synced := false; !synced; {
		message, err := watch.Next()
		must(t, err)
		known[message.GetChanged().GetName()] = true
		synced = message.GetSynced() != nil
	}
	same(t, known[name], true)
	way.cut()
	done(client.Containers.UpdateContainer(ctx, &v1.UpdateContainerRequest{
		Container:  &v1.Container{Name: name, Description: "changed meanwhile"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}},
	}))
	way.mend()
	for changed := false; !changed; {
		message, err := watch.Next()
		must(t, err)
		if message.GetReset_() != nil {
			t.Fatal("it begins anew")
		}
		changed = message.GetChanged().GetDescription() == "changed meanwhile"
	}
	// One that the server cannot go on from is told so.
	message, err := client.WatchContainers(ctx, &v1.WatchContainersRequest{ResumeToken: "of another server"}).Next()
	must(t, err)
	same(t, message.GetReset_() != nil, true)

	// Failures have a reason: of a call, of all fields that are wrong, of an operation.
	_, err = client.Containers.GetContainer(ctx, &v1.GetContainerRequest{Name: "containers/2147483000"})
	same(t, fails(err).Reason, "CONTAINER_UNKNOWN")
	same(t, fails(err).Facts["ct"], "2147483000")
	same(t, status.Code(err), codes.NotFound)
	spec.Hostname, spec.Interfaces[0].Addresses[0] = "no host name", "no address"
	_, err = client.Containers.CreateContainer(ctx, &v1.CreateContainerRequest{Container: &v1.Container{Spec: spec}})
	same(t, fails(err).Reason, "BAD_VALUE")
	wrong := map[string]bool{}
	for _, violation := range fails(err).Violations {
		wrong[violation.Field] = true
	}
	if !wrong["container.spec.hostname"] || !wrong["container.spec.interfaces[0].addresses[0]"] {
		t.Fatal(wrong)
	}
	operation, err = client.Containers.DeleteContainer(ctx, &v1.DeleteContainerRequest{Name: name})
	if err == nil {
		_, err = client.Wait(ctx, operation, nil)
	}
	same(t, fails(err).Reason, "RUNNING")

	// Stop and delete.
	done(client.Containers.StopContainer(ctx, &v1.StopContainerRequest{
		Name: name, Mode: v1.StopContainerRequest_MODE_KILL,
	}))
	done(client.Containers.DeleteContainer(ctx, &v1.DeleteContainerRequest{Name: name}))
	_, err = client.Containers.GetContainer(ctx, &v1.GetContainerRequest{Name: name})
	same(t, fails(err).Reason, "CONTAINER_UNKNOWN")
}
