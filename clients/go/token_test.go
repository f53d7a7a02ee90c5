package ves

// A bearer token from the network: what it lets its holder do, and its end.
//
// The environment says what the test of a life needs of an https target but a certificate, and as VES_TEST_ADMIN where
// an administrator finds the same node, who makes the token and revokes it; without, there is nothing to test.

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "ves.example/client/api/v1"
)

func TestToken(t *testing.T) {
	if os.Getenv("VES_TEST_ADMIN") == "" {
		t.Skip("VES_TEST_ADMIN is not set")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	connect := func(target string, options Options) *Client {
		t.Helper()
		client, err := Connect(target, options)
		must(t, err)
		t.Cleanup(func() { client.Close() })
		return client
	}
	fails := func(err error) *Error {
		t.Helper()
		if err == nil {
			t.Fatal("it succeeds")
		}
		return AsError(err)
	}
	admin := connect(env(t, "ADMIN"), Options{})
	const project = "projects/go"
	made, err := admin.Access.CreateToken(ctx, &v1.CreateTokenRequest{Token: &v1.Token{
		Holder: "in-go", Role: v1.AccessRole_ACCESS_ROLE_TENANT, Projects: []string{project},
	}})
	must(t, err)
	open := func(token string) *Client {
		t.Helper()
		options := Options{TLS: &TLS{CA: env(t, "CA")}, Token: token, RetryFor: 20 * time.Second}
		return connect(env(t, "TARGET"), options)
	}
	client := open(made.GetSecret())
	ct, err := strconv.ParseUint(env(t, "CT"), 10, 32)
	must(t, err)
	name := "containers/" + env(t, "CT")

	// It makes containers in its project, and sees no others.
	create := func(project string) (*v1.Operation, error) {
		return client.Containers.CreateContainer(ctx, &v1.CreateContainerRequest{
			Container: &v1.Container{Project: project, Spec: &v1.ContainerSpec{
				Template: "templates/" + env(t, "TEMPLATE"),
				Volumes:  []*v1.Volume{{Id: "root", SizeBytes: 128 << 20}},
			}},
			CtId: uint32(ct),
		})
	}
	_, err = create("")
	same(t, fails(err).Reason, "NOT_ALLOWED")
	operation, err := create(project)
	must(t, err)
	operation, err = client.Wait(ctx, operation, nil)
	must(t, err)
	same(t, operation.GetActor().GetType(), v1.Actor_TYPE_TOKEN)
	same(t, operation.GetActor().GetId(), "in-go")
	listed, err := client.Containers.ListContainers(ctx, &v1.ListContainersRequest{})
	must(t, err)
	same(t, len(listed.GetContainers()), 1)
	same(t, listed.GetContainers()[0].GetName(), name)

	// What it may not, and what there is not.
	_, err = client.Access.ListTokens(ctx, &v1.ListTokensRequest{})
	same(t, fails(err).Reason, "NOT_ALLOWED")
	same(t, fails(err).Facts["principal"], "token:in-go")
	same(t, status.Code(err), codes.PermissionDenied)
	_, err = client.Containers.GetContainer(ctx, &v1.GetContainerRequest{Name: "containers/2147483000"})
	same(t, fails(err).Reason, "CONTAINER_UNKNOWN")
	operation, err = client.Containers.DeleteContainer(ctx, &v1.DeleteContainerRequest{Name: name})
	must(t, err)
	_, err = client.Wait(ctx, operation, nil)
	must(t, err)

	// It ends where there is a connection and where there is none; and nobody comes without.
	_, err = admin.Access.RevokeToken(ctx, &v1.RevokeTokenRequest{Name: made.GetToken().GetName()})
	must(t, err)
	for _, each := range []struct {
		client *Client
		why    string
	}{{client, "unknown"}, {open(made.GetSecret()), "unknown"}, {open(""), "none"}} {
		_, err = each.client.Containers.ListContainers(ctx, &v1.ListContainersRequest{})
		same(t, fails(err).Reason, "UNAUTHENTICATED")
		same(t, fails(err).Facts["why"], each.why)
		same(t, status.Code(err), codes.Unauthenticated)
	}
}
