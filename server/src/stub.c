/* rsyscall-stub: a process that makes system calls for whoever is at the other end of its socket.
 *
 *   rsyscall-stub --fd N     serve the connected socket N, or read the pipe N and write N + 1
 *   rsyscall-stub            serve the socket that systemd passed: a connected one (Accept=yes),
 *                            or a listening one (Accept=no) with one process per connection;
 *                            without one the socket that is standard input
 *   rsyscall-stub --persist=N      serve standard input, and each time that has ended, if the
 *                                  socket N listens by then, whoever connects to it
 *   rsyscall-stub --connect=PATH [...]  connect there, and serve that; so that an executable that
 *                                  begins with "#!/path/rsyscall-stub --connect=PATH" becomes a
 *                                  process of whoever listens. All descriptors stay open
 *   rsyscall-stub --version
 *
 * Exit status: 0 after a client has ended, however it ended, but 2 with --connect, since the client
 * has not said which; 2 when it could not start, with a line on standard error that says why. */
#include "session.h"
#include "sys.h"

enum {
    EXIT_USAGE = 2,
    LISTEN_FDS_START = 3,
    AT_PAGESZ = 6,
    AT_FDCWD_ = -100,
    AF_UNIX_ = 1,
    O_RDWR_ = 2,
    O_CLOEXEC_ = 0x80000,
    O_NONBLOCK_ = 0x800,
    F_SETFL_ = 4,
    F_GETPIPE_SZ_ = 1032,
    WNOHANG_ = 1,
    RETRY_MS = 100,
    STAT_INO = 8,           /* where st_ino is in struct stat, on every 64-bit architecture */
    PID_FS_MAGIC = 0x50494446
};

static struct rs_session session;

static _Noreturn void quit(int status) {
    for (;;)
        rs_sys3(RS_NR_exit_group, (uint64_t)status, 0, 0);
}

static uint32_t length(const char *s) {
    uint32_t n = 0;
    while (s[n])
        n++;
    return n;
}

static void say(int32_t fd, const char *text) {
    uint32_t n = length(text);
    while (n) {
        int64_t put = rs_sys3(RS_NR_write, (uint64_t)fd, rs_addr(text), n);
        if (put == -RS_EINTR)
            continue;
        if (put <= 0)
            return;
        text += put;
        n -= (uint32_t)put;
    }
}

static _Noreturn void die(const char *what, const char *why) {
    say(2, "rsyscall-stub: ");
    say(2, what);
    say(2, why);
    say(2, "\n");
    quit(EXIT_USAGE);
}

static int same(const char *a, const char *b) {
    uint32_t n = length(a);
    return n == length(b) && memcmp(a, b, n) == 0;
}

/* The value of NAME= in the environment, or NULL. */
static const char *lookup(char **envp, const char *name) {
    uint32_t n = length(name);
    for (; *envp; envp++)
        if (length(*envp) > n && memcmp(*envp, name, n) == 0 && (*envp)[n] == '=')
            return *envp + n + 1;
    return NULL;
}

/* A decimal number; -1 if it is none, or does not fit. */
static int64_t number(const char *s) {
    uint64_t n = 0;
    if (!*s)
        return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || n > (INT64_MAX - 9) / 10)
            return -1;
        n = n * 10 + (uint64_t)(*s - '0');
    }
    return (int64_t)n;
}

static int32_t descriptor(const char *what, const char *s) {
    int64_t n = number(s);
    if (n < 0 || n > INT32_MAX)
        die(what, ": not a file descriptor");
    return (int32_t)n;
}

static int64_t sockopt_int(int32_t fd, int32_t name) {
    int32_t value = 0;
    uint32_t len = sizeof value;
    int64_t err = rs_sockopt(fd, name, &value, &len);
    return err < 0 ? err : value;
}

static void check(const char *what, int32_t fd) {
    int64_t type = sockopt_int(fd, RS_SO_TYPE);
    if (type < 0)
        die(what, type == -RS_EBADF ? ": not an open file descriptor" : ": not a socket");
    if (type != RS_SOCK_STREAM)
        die(what, ": not a stream socket");
}

/* Nothing but our own socket and stdio: a copied table would keep siblings' connections open. */
static void close_others(int32_t keep) {
    if (keep > 3)
        rs_sys3(RS_NR_close_range, 3, (uint64_t)keep - 1, 0);
    rs_sys3(RS_NR_close_range, keep < 3 ? 3 : (uint64_t)keep + 1 + session.pipes, UINT32_MAX, 0);
    rs_sys3(RS_NR_fcntl, (uint64_t)keep, RS_F_SETFD, RS_FD_CLOEXEC);
}

/* The next client; there is nothing else to be done until there is one. */
static int32_t next_client(int32_t listening) {
    int64_t fd;
    while ((fd = rs_sys(RS_NR_accept4, (uint64_t)listening, 0, 0, RS_SOCK_CLOEXEC, 0, 0)) < 0)
        rs_poll(0, 0, RETRY_MS);
    return (int32_t)fd;
}

/* trusted: whoever started us has the other end. next: where to go on when the session is over, or
 * -1. status: to exit with. */
static _Noreturn void serve(int32_t fd, int trusted, int32_t next, uint32_t status) {
    int32_t pidfd = session.pipes ? fd + 1 : rs_client_pidfd(fd);
    uint32_t page_size = session.page_size;
    for (;;) {
        rs_session_init(&session, fd, pidfd, next < 0 ? 0 : RS_STAYS, page_size);
        session.status = status;
        if (!trusted) {
            struct rs_ucred peer = {0, UINT32_MAX, UINT32_MAX};
            uint32_t len = sizeof peer;
            int64_t me = rs_sys3(RS_NR_geteuid, 0, 0, 0);
            int64_t err = rs_sockopt(fd, RS_SO_PEERCRED, &peer, &len);
            /* The socket's mode decides who may connect; this holds even where that was left open. */
            if (err < 0 || (peer.uid != 0 && peer.uid != (uint32_t)me))
                rs_session_refuse(&session, RS_ERR_PEER, "not served");
        }
        rs_session_run(&session);
        if (sockopt_int(next, RS_SO_ACCEPTCONN) != 1)
            quit((int)status);
        rs_close(pidfd);
        pidfd = -1; /* somebody may have connected for somebody else */
        trusted = 0;
        /* All of it is zero again. */
        rs_sys3(RS_NR_madvise, rs_addr(&session), sizeof session, RS_MADV_DONTNEED);
        int32_t conn = next_client(next);
        rs_sys3(RS_NR_dup3, (uint64_t)conn, (uint64_t)fd, O_CLOEXEC_);
        rs_close(conn);
    }
}

static void reap(void) {
    while (rs_sys3(RS_NR_wait4, UINT64_MAX, 0, WNOHANG_) > 0)
        ;
}

static _Noreturn void listen_loop(int32_t fd) {
    uint64_t mask = 1ull << (RS_SIGTERM - 1) | 1ull << (RS_SIGCHLD - 1), old = 0;
    close_others(fd);
    /* By signalfd and not by default action: as init of a namespace SIGTERM would do nothing. */
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_BLOCK, rs_addr(&mask), rs_addr(&old), 8, 0, 0);
    int64_t sigfd = rs_sys(RS_NR_signalfd4, UINT64_MAX, rs_addr(&mask), 8, O_CLOEXEC_, 0, 0);
    if (sigfd < 0)
        die("signalfd", ": refused");
    for (;;) {
        struct rs_pollfd fds[2] = {{(int32_t)sigfd, RS_POLLIN, 0}, {fd, RS_POLLIN, 0}};
        int64_t n = rs_poll(fds, 2, -1);
        if (n == -RS_EINTR)
            continue;
        if (n < 0)
            die("poll", ": refused");
        if (fds[0].revents) {
            uint8_t info[128];
            rs_sys3(RS_NR_read, (uint64_t)sigfd, rs_addr(info), sizeof info);
            uint32_t signo;
            memcpy(&signo, info, sizeof signo);
            if (signo == RS_SIGTERM)
                quit(0);
            reap();
        }
        if (!fds[1].revents)
            continue;
        int64_t conn = rs_sys(RS_NR_accept4, (uint64_t)fd, 0, 0, RS_SOCK_CLOEXEC, 0, 0);
        if (conn == -RS_EMFILE || conn == -RS_ENFILE || conn == -RS_ENOMEM ||
            conn == -RS_ENOBUFS) {
            rs_poll(fds, 1, RETRY_MS); /* until somebody has ended, or a moment has passed */
            continue;
        }
        if (conn == -RS_EINTR || conn == -RS_EAGAIN || conn == -RS_ECONNABORTED)
            continue;
        if (conn < 0)
            die("accept", ": refused");
        int64_t pid = rs_sys3(RS_NR_clone, RS_SIGCHLD, 0, 0);
        if (pid == 0) {
            rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&old), 0, 8, 0, 0);
            close_others((int32_t)conn);
            serve((int32_t)conn, 0, -1, 0);
        }
        rs_close((int32_t)conn); /* without a process for it the client sees EOF */
    }
}

/* LISTEN_PIDFDID tells us from another process that got our pid: the inode of a pidfd, which is
 * unique, but only since there is pidfs (6.9). */
static int pidfd_id_matches(int64_t id) {
    int64_t fd = rs_sys3(RS_NR_pidfd_open, (uint64_t)rs_getpid(), 0, 0);
    uint64_t statbuf[32] = {0}, fs[32] = {0}; /* both larger than the kernel's structures */
    uint64_t ino;
    int matches = 1;
    if (fd < 0)
        return 1;
    if (rs_sys3(RS_NR_fstatfs, (uint64_t)fd, rs_addr(fs), 0) == 0 &&
        (uint32_t)fs[0] == PID_FS_MAGIC &&
        rs_sys3(RS_NR_fstat, (uint64_t)fd, rs_addr(statbuf), 0) == 0) {
        memcpy(&ino, (uint8_t *)statbuf + STAT_INO, sizeof ino);
        matches = ino == (uint64_t)id;
    }
    rs_close((int32_t)fd);
    return matches;
}

/* sd_listen_fds(3), of which exactly one socket is for us; 0 if there is none. */
static int32_t activated(char **envp) {
    const char *pid = lookup(envp, "LISTEN_PID"), *fds = lookup(envp, "LISTEN_FDS");
    const char *names = lookup(envp, "LISTEN_FDNAMES"), *id = lookup(envp, "LISTEN_PIDFDID");
    if (!pid || !fds || number(pid) != rs_getpid() || (id && !pidfd_id_matches(number(id))))
        return 0;
    for (; names && *names; names++)
        if (*names == ':')
            fds = names;
    if (number(fds) != 1)
        die("LISTEN_FDS", ": exactly one socket is wanted");
    return LISTEN_FDS_START;
}

/* Programs that we start are not to read from our socket. */
static int32_t move_stdin(void) {
    rs_sys3(RS_NR_dup3, 0, LISTEN_FDS_START, O_CLOEXEC_);
    rs_close(0);
    rs_sys3(RS_NR_openat, (uint64_t)AT_FDCWD_, rs_addr("/dev/null"), O_RDWR_);
    return LISTEN_FDS_START;
}

/* For the interpreter of a script: its name, an option, and then what it was called with. */
static int32_t connected(const char *path) {
    struct {
        uint16_t family;
        char path[108];
    } to = {AF_UNIX_, {0}};
    uint32_t n = length(path);
    uint64_t fd;
    do /* not where programs expect something else */
        fd = (uint64_t)rs_sys3(RS_NR_socket, AF_UNIX_, RS_SOCK_STREAM | RS_SOCK_CLOEXEC, 0);
    while (fd < LISTEN_FDS_START);
    if (n <= sizeof to.path)
        memcpy(to.path, path, n);
    if (n > sizeof to.path || rs_sys3(RS_NR_connect, fd, rs_addr(&to), sizeof to) < 0)
        die(path, ": cannot connect");
    return (int32_t)fd;
}

/* Whether it is an end of a socketpair, which only those have whom we were started by. */
static int is_nameless(int32_t fd) {
    uint32_t len = 0; /* nothing of the name is wanted */
    rs_sys3(RS_NR_getsockname, (uint64_t)fd, rs_addr(&len), rs_addr(&len));
    return len == sizeof(uint16_t);
}

/* If so, from now on it does not block. */
static int is_pipe(int32_t fd) {
    return rs_sys3(RS_NR_fcntl, (uint64_t)fd, F_GETPIPE_SZ_, 0) > 0 &&
           rs_sys3(RS_NR_fcntl, (uint64_t)fd, F_SETFL_, O_NONBLOCK_) == 0;
}

/* Called by start.S with the initial stack pointer. */
__attribute__((used)) _Noreturn void rs_main(uint64_t *stack);

_Noreturn void rs_main(uint64_t *stack) {
    int64_t argc = (int64_t)stack[0];
    char **argv = (char **)(stack + 1), **envp = argv + argc + 1, **end = envp;
    while (*end)
        end++;
    session.page_size = 4096;
    for (const uint64_t *aux = (const uint64_t *)(end + 1); aux[0]; aux += 2)
        if (aux[0] == AT_PAGESZ)
            session.page_size = (uint32_t)aux[1];

    if (argc == 2 && same(argv[1], "--version")) {
        say(1, "rsyscall-stub " RS_STUB_VERSION "\n");
        quit(0);
    }
    /* As in Python: a write to a closed pipe is an error of that call, not the end of us. */
    rs_dispose(RS_SIGPIPE, RS_SIG_IGN);
    rs_dispose(RS_SIGXFSZ, RS_SIG_IGN);

    const char *what = "--fd", *path = lookup(argv, "--connect"), *n = lookup(argv, "--persist");
    int32_t fd = 0, next = -1;
    int trusted = 1;
    if (path)
        serve(connected(path), 0, -1, EXIT_USAGE);
    if (argc == 3 && same(argv[1], what)) {
        fd = descriptor(what, argv[2]);
        if (is_pipe(fd) && is_pipe(fd + 1)) {
            session.pipes = 1;
            rs_sys3(RS_NR_fcntl, (uint64_t)fd + 1, RS_F_SETFD, RS_FD_CLOEXEC);
            close_others(fd);
            serve(fd, 1, -1, 0);
        }
    } else if (argc > 1 && !n) {
        die("usage", ": rsyscall-stub [--fd N | --connect=PATH | --persist=N | --version]");
    } else {
        if (!n)
            fd = activated(envp);
        what = fd ? "LISTEN_FDS" : "standard input, without --fd or LISTEN_FDS";
        trusted = 0;
    }
    check(what, fd);
    if (!trusted && !fd) {
        trusted = is_nameless(fd);
        fd = move_stdin();
    }
    if (n) {
        next = descriptor("--persist", n);
        check("--persist", next);
        rs_sys3(RS_NR_fcntl, (uint64_t)next, RS_F_SETFD, RS_FD_CLOEXEC);
    } else {
        close_others(fd);
    }
    if (sockopt_int(fd, RS_SO_ACCEPTCONN) == 1)
        listen_loop(fd);
    serve(fd, trusted, next, 0);
}
