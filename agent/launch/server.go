package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// maxSocketPath is what sun_path holds on Linux, less its closing zero.
const maxSocketPath = 107

// socket is the API's listener.
type socket struct{ net.Listener }

// listen opens the socket, mode 0660. A stale one, that nobody answers on, is replaced; a live
// launcher's gives ErrInUse.
func listen(path string) (*socket, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes; Unix sockets allow %d: give a shorter one", path, len(path), maxSocketPath)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s is %w: stop it, or give this one another path", path, ErrInUse)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("socket path %s is taken by something that is no socket: remove it, or give another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make folder of the socket: %w", err)
	}
	former := syscall.Umask(0o117) // so that the socket is never open wider than 0660
	l, err := net.Listen("unix", path)
	syscall.Umask(former)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &socket{l}, nil
}

// serve answers until ctx ends. Requests that wait for the supervisor are answered before.
func (s *socket) serve(ctx context.Context, l *Launcher) {
	srv := &http.Server{
		Handler:           handler(ctx, l),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		limit, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(limit) != nil {
			srv.Close()
		}
	})
	if err := srv.Serve(s); !errors.Is(err, http.ErrServerClosed) {
		l.log.Error("launcher socket failed; the engine runs on, but no sidecar can reach it", "error", err)
	}
	if !stop() {
		<-closed
	}
}

func handler(ctx context.Context, l *Launcher) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { respond(w, l.Status()) })
	mux.HandleFunc("GET /v1/log", l.serveLog)
	mux.HandleFunc("GET /v1/gpu", l.serveGPU(ctx))
	mux.HandleFunc("POST /v1/start", withSpec(l, l.start))
	mux.HandleFunc("POST /v1/restart", withSpec(l, l.restart))
	mux.HandleFunc("POST /v1/commit", withSpec(l, func(_ context.Context, s Spec) error { return l.commit(s) }))
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		var body stopRequest
		if !read(w, r, &body) {
			return
		}
		answerWith(w, l, l.stop(r.Context(), body.Grace))
	})
	return mux
}

func (l *Launcher) serveLog(w http.ResponseWriter, r *http.Request) {
	var since uint64
	if v := r.URL.Query().Get("since"); v != "" {
		var err error
		if since, err = strconv.ParseUint(v, 10, 64); err != nil {
			refuse(w, fmt.Errorf("%w: since=%q is no offset", ErrInvalidSpec, v))
			return
		}
	}
	respond(w, l.tail.since(since))
}

func withSpec(l *Launcher, do func(context.Context, Spec) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body specRequest
		if read(w, r, &body) {
			answerWith(w, l, do(r.Context(), body.Spec))
		}
	}
}

func answerWith(w http.ResponseWriter, l *Launcher, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	respond(w, l.Status())
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, fmt.Errorf("%w: %w", ErrInvalidSpec, err))
		return false
	}
	return true
}

func refuse(w http.ResponseWriter, err error) {
	status, f := encodeFailure(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(f) // the client has gone: nobody to tell
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}
