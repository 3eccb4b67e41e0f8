// Command interop follows this process's X.509 identity with the released go-spiffe library.
//
//	interop -socket PATH -rotations 3           prints one JSON line for each update
//	interop -socket PATH -mtls                  talks mutual TLS to itself with that identity
//	interop -socket PATH -jwt                   follows the JWT bundles until the first one
//
// Anything that is not as it must be is one line on stderr and exit code 1.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type update struct {
	At          time.Time `json:"at"`
	Rotations   int       `json:"rotations"`
	SpiffeID    string    `json:"spiffe_id"`
	Serial      string    `json:"serial"`
	NotAfter    time.Time `json:"not_after"`
	Hint        string    `json:"hint,omitempty"`
	Authorities int       `json:"authorities"`
}

func main() {
	socket := flag.String("socket", "", "path of the Workload API socket")
	rotations := flag.Int("rotations", 3, "rotations to wait for; 0 ends after the first update")
	timeout := flag.Duration("timeout", 2*time.Minute, "for all of it")
	expect := flag.String("expect-id", "", "the SPIFFE ID that the identity must have")
	mtls := flag.Bool("mtls", false, "talk mutual TLS to itself")
	jwt := flag.Bool("jwt", false, "wait for the JWT bundles")
	flag.Parse()
	if *socket == "" {
		fmt.Fprintln(os.Stderr, "interop: -socket is required")
		os.Exit(64)
	}

	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	address := workloadapi.WithAddr("unix://" + *socket)
	var err error
	switch {
	case *mtls:
		err = handshake(ctx, address, *expect)
	case *jwt:
		err = jwtBundles(ctx, address)
	default:
		err = watch(ctx, address, *rotations, *expect)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		os.Exit(1)
	}
}

func watch(ctx context.Context, address workloadapi.ClientOption, wanted int, expect string) error {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	if err != nil {
		return fmt.Errorf("no identity: %w", err)
	}
	defer source.Close()

	var previous *x509svid.SVID
	for seen := 0; ; {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err
		}
		bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return fmt.Errorf("no bundle of the own trust domain: %w", err)
		}
		if err := check(svid, previous, bundle, expect); err != nil {
			return err
		}
		leaf := svid.Certificates[0]
		if previous != nil && previous.Certificates[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
			seen++
		}
		previous = svid
		line, err := json.Marshal(update{
			At: time.Now(), Rotations: seen, SpiffeID: svid.ID.String(), Serial: leaf.SerialNumber.Text(16),
			NotAfter: leaf.NotAfter, Hint: svid.Hint, Authorities: len(bundle.X509Authorities()),
		})
		if err != nil {
			return err
		}
		fmt.Println(string(line))
		if seen >= wanted {
			return nil
		}
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return fmt.Errorf("saw %d of %d rotations: %w", seen, wanted, err)
		}
	}
}

func check(svid, previous *x509svid.SVID, bundle *x509bundle.Bundle, expect string) error {
	if expect != "" && svid.ID.String() != expect {
		return fmt.Errorf("the identity is %s, not %s", svid.ID, expect)
	}
	id, _, err := x509svid.Verify(svid.Certificates, bundle)
	if err != nil {
		return fmt.Errorf("the identity does not verify: %w", err)
	}
	if id != svid.ID {
		return fmt.Errorf("the certificate says %s, the message %s", id, svid.ID)
	}
	if previous != nil && time.Now().After(previous.Certificates[0].NotAfter) {
		return errors.New("the update came after the old identity had expired")
	}
	return nil
}

// handshake runs a server and a client that each insist on the identity of this process.
func handshake(ctx context.Context, address workloadapi.ClientOption, expect string) error {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	if err != nil {
		return fmt.Errorf("no identity: %w", err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	id := svid.ID
	if expect != "" {
		if id, err = spiffeid.FromString(expect); err != nil {
			return err
		}
	}

	listener, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id)))
	if err != nil {
		return err
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer connection.Close()
		line, err := bufio.NewReader(connection).ReadString('\n')
		if err == nil {
			_, err = io.WriteString(connection, line)
		}
		served <- err
	}()

	client, err := tls.Dial("tcp", listener.Addr().String(), tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id)))
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "hello\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(client).ReadString('\n')
	if err != nil {
		return err
	}
	if err := <-served; err != nil {
		return err
	}
	if answer != "hello\n" {
		return fmt.Errorf("sent %q, was answered %q", "hello\n", answer)
	}
	fmt.Printf("{\"mtls\":%q,\"tls\":%q}\n", id, tls.VersionName(client.ConnectionState().Version))
	return nil
}

func jwtBundles(ctx context.Context, address workloadapi.ClientOption) error {
	set, err := workloadapi.FetchJWTBundles(ctx, address)
	if err != nil {
		return err
	}
	for _, bundle := range set.Bundles() {
		fmt.Printf("{\"trust_domain\":%q,\"jwt_authorities\":%d}\n", bundle.TrustDomain().Name(), len(bundle.JWTAuthorities()))
	}
	return nil
}
