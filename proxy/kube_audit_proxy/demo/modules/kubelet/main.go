// The demo's kubelet: answers logs, exec, attach and port-forward for the simulated pods of kwok.
//
// Pods are not real: commands run on this machine as the user who started the demo, in one working directory, and logs
// are files named after containers. Only clients with a certificate of the demo's authority (the API server) get in.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:10250", "address to listen on")
	cert := flag.String("cert", "", "certificate file")
	key := flag.String("key", "", "key file")
	clientCA := flag.String("client-ca", "", "authority of the clients' certificates")
	pods := pods{}
	flag.StringVar(&pods.logs, "logs", "", "folder of log files in CRI format, CONTAINER.log or any.log")
	flag.StringVar(&pods.work, "work", "", "working directory of commands")
	flag.Parse()

	authority, err := os.ReadFile(*clientCA)
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(authority) {
		log.Fatal(errors.New("no certificate in " + *clientCA))
	}
	server := &http.Server{
		Addr:              *listen,
		Handler:           routes(&pods),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			ClientCAs:  clients,
			ClientAuth: tls.RequireAndVerifyClientCert,
		},
	}
	log.Fatal(server.ListenAndServeTLS(*cert, *key))
}
