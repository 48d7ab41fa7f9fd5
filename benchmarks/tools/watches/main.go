// Holds watches open, and tells how long an event takes to reach all of them.
//
// watches URL COUNT [HEADER...]: prints "open" once all of them have begun. Each line on standard input says that an event
// is being made: it then prints the seconds until the last watch has got it.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const atOnce = 8 // handshakes under way

func main() {
	target, err := url.Parse(os.Args[1])
	check(err)
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	lines := append([]string{"GET " + target.RequestURI() + " HTTP/1.1", "Host: " + target.Host, "Accept: application/json"}, os.Args[3:]...)
	request := []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
	settings := &tls.Config{InsecureSkipVerify: true}

	var opened sync.WaitGroup
	arrived := make(chan struct{}, count)
	slots := make(chan struct{}, atOnce)
	for range count {
		slots <- struct{}{}
		opened.Add(1)
		go func() {
			watch(target.Host, settings, request, func() { <-slots; opened.Done() }, arrived)
		}()
	}
	opened.Wait()
	fmt.Println("open")
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		started := time.Now()
		for range count {
			<-arrived
		}
		fmt.Println(time.Since(started).Seconds())
	}
}

// watch asks, calls begun with the answer's head, and sends on arrived for each event.
func watch(host string, settings *tls.Config, request []byte, begun func(), arrived chan<- struct{}) {
	plain, err := net.Dial("tcp", host)
	check(err)
	connection := tls.Client(plain, settings)
	_, err = connection.Write(request)
	check(err)
	reader := bufio.NewReaderSize(connection, 1024)
	answer, err := http.ReadResponse(reader, nil)
	check(err)
	if answer.StatusCode != http.StatusOK {
		log.Fatal(answer.Status)
	}
	begun()
	for events := bufio.NewReaderSize(answer.Body, 1024); ; {
		if _, err := events.ReadSlice('\n'); err == nil {
			arrived <- struct{}{}
		} else if err != bufio.ErrBufferFull {
			log.Fatal(err)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
