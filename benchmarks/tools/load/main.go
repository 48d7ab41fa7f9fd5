// Keeps a number of connections busy, as cheaply as can be: what it costs is taken from what it measures.
//
// load URL CONNECTIONS CALLS [HEADER...]: prints one line of JSON: calls, seconds, latencies in milliseconds.
// With LOAD_RATE it makes no more than so many calls a second.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	target, err := url.Parse(os.Args[1])
	check(err)
	connections, err := strconv.Atoi(os.Args[2])
	check(err)
	calls, err := strconv.Atoi(os.Args[3])
	check(err)
	lines := append([]string{"GET " + target.RequestURI() + " HTTP/1.1", "Host: " + target.Host, "Accept: application/json"}, os.Args[4:]...)
	request := []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")

	var left atomic.Int64
	left.Store(int64(calls))
	pause := time.Duration(0)
	if rate := os.Getenv("LOAD_RATE"); rate != "" {
		perSecond, err := strconv.Atoi(rate)
		check(err)
		pause = time.Second / time.Duration(perSecond)
	}
	latencies := make([][]time.Duration, connections)
	var all sync.WaitGroup
	started := time.Now()
	due := func(made int64) { time.Sleep(time.Until(started.Add(time.Duration(int64(calls)-made) * pause))) }
	for n := range connections {
		all.Go(func() { latencies[n] = keepBusy(target, request, &left, due) })
	}
	all.Wait()
	seconds := time.Since(started).Seconds()

	sorted := slices.Concat(latencies...)
	slices.Sort(sorted)
	at := func(part float64) float64 { return sorted[int(part*float64(len(sorted)))].Seconds() * 1000 }
	check(json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"calls": float64(len(sorted)), "seconds": seconds, "p50_ms": at(.5), "p99_ms": at(.99),
	}))
}

// keepBusy asks on one connection, again as soon as it has its answer and the call is due, until no calls are left.
func keepBusy(target *url.URL, request []byte, left *atomic.Int64, due func(int64)) []time.Duration {
	connection, err := net.Dial("tcp", target.Host)
	check(err)
	if target.Scheme == "https" {
		connection = tls.Client(connection, &tls.Config{InsecureSkipVerify: true})
	}
	defer connection.Close()
	reader := bufio.NewReader(connection)
	var latencies []time.Duration
	for {
		still := left.Add(-1)
		if still < 0 {
			return latencies
		}
		due(still + 1)
		sent := time.Now()
		_, err := connection.Write(request)
		check(err)
		answer, err := http.ReadResponse(reader, nil)
		check(err)
		_, err = io.Copy(io.Discard, answer.Body)
		check(err)
		if answer.StatusCode != http.StatusOK {
			check(fmt.Errorf("answer %d", answer.StatusCode))
		}
		latencies = append(latencies, time.Since(sent))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
