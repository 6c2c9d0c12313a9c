/* How a session's bytes come and go: over the socket, or through a ring with the socket beside it. */
#ifndef RS_TRANSPORT_H
#define RS_TRANSPORT_H

#include "session.h"
#include "sys.h"

static inline int32_t rs_socket(const struct rs_session *s) { return s->guard.fds[0]; }

/* session.c */
void rs_fail(struct rs_session *s, uint32_t code, uint64_t offset, const char *why);
struct rs_reply *rs_reply_at(struct rs_session *s, uint32_t i);
uint8_t *rs_tx_room(struct rs_session *s, uint64_t n); /* NULL if there is none */
void rs_tx_add(struct rs_session *s, uint32_t n);
void rs_tx_sent(struct rs_session *s, uint32_t n);
uint32_t rs_rx_room(struct rs_session *s); /* bytes that may be added behind rx_len */

/* How many bytes may leave before the next descriptor must; *with is the reply whose descriptor
 * must leave first, if it is that of the next byte. */
uint32_t rs_tx_until_fd(struct rs_session *s, struct rs_reply **with);

/* The reply's descriptor has been sent: it is closed here. */
void rs_reply_fd_sent(struct rs_session *s, struct rs_reply *reply);

void rs_reply_add(struct rs_session *s, uint32_t len, int32_t fd); /* written at rs_tx_room */
/* Serve as the leader. RS_DEPOSED, or 0 when the session is over. */
int rs_lead(struct rs_session *s);
void rs_work_init(struct rs_session *s, struct rs_work *w);

/* team.c */
enum { RS_DEPOSED = 1 };
/* Return once w leads. */
void rs_team_follow(struct rs_session *s, struct rs_work *w);
/* The call has been made by who has been relieved meanwhile. RS_DEPOSED. */
int rs_team_finish(struct rs_session *s, struct rs_work *w, uint8_t *reply, uint32_t len,
                   int32_t fd);
/* Between the two the leader waits for the client, until something is done. */
uint32_t rs_team_sleep(struct rs_session *s);
void rs_team_wake(struct rs_session *s, uint32_t turn);
/* Take replies, and have the main thread lead if it can: RS_DEPOSED then, else 0. */
int rs_team_tidy(struct rs_session *s);
void rs_team_cancel(struct rs_session *s, uint64_t id);
/* Be the main thread, and the only one: 0. RS_DEPOSED if it is to look at this frame; -1 if calls are
 * blocked. */
int rs_team_alone(struct rs_session *s);
/* Have all blocked calls interrupted, and be the main thread, and the only one: 0. RS_DEPOSED if it
 * is to do the rest. */
int rs_team_end(struct rs_session *s);

/* watch.c. Begin the one in the request: 1, or 0 if there are too many. */
int rs_watch(struct rs_session *s);
/* Answer the one with this id, or all if it is 0, that nothing has happened. */
void rs_watch_end(struct rs_session *s, uint64_t id);
/* Answer those that something has happened to, in the order of s->watches. */
void rs_watch_told(struct rs_session *s, const struct rs_pollfd *fds);

/* arch/<arch>/syscall.S */
void rs_interrupt(void);
void rs_restore(void);
void rs_helper_entry(void);

/* socket.c. -errno, or the bytes that were sent or came. */
int64_t rs_socket_send(struct rs_session *s, const void *bytes, uint32_t len, const int32_t *fds,
                       uint32_t nfds);
enum rs_wait { RS_READY, RS_TIMEOUT, RS_GONE };

/* Wait for the client: until it is READY, or until nothing has happened for so long, or it died. */
enum rs_wait rs_socket_wait(struct rs_session *s, int reading, int writing, int64_t timeout);
/* recvmsg with descriptors sorted into packets, which get the given range of the stream. *bad says
 * what is wrong with them, or is NULL. */
int64_t rs_socket_recv(struct rs_session *s, uint8_t *to, uint32_t room, uint64_t start,
                       const char **bad);
int rs_socket_flush(struct rs_session *s);
int rs_socket_receive(struct rs_session *s);

/* shared.c */
/* Answer a RING. 0, or -1 when there is nobody to answer. */
int rs_ring_start(struct rs_session *s);
/* How many turns of the loop a spin of so many microseconds takes. */
uint32_t rs_ring_turns(struct rs_ring *ring, uint32_t us);
void rs_ring_end(struct rs_session *s); /* unmaps what rs_ring_start has mapped */
int rs_ring_flush(struct rs_session *s);
int rs_ring_receive(struct rs_session *s);
/* Sleep until there is room for what could not be sent. 0, or -1 when the client has ended. */
int rs_ring_wait(struct rs_session *s);
/* Have the packet that the next frame with descriptors needs. 0, or -1 if it is not there. */
int rs_ring_packet(struct rs_session *s);

/* Either: send what can be sent, without waiting. 0, or -1 when there is nobody to send to. */
static inline int rs_flush(struct rs_session *s) {
    return s->ring_on ? rs_ring_flush(s) : rs_socket_flush(s);
}

/* Either: wait for bytes and take what there is. 1: something came; 0: the client has ended and
 * there is no more; -1: it has died, or nobody listens any more. */
static inline int rs_receive(struct rs_session *s) {
    return s->ring_on ? rs_ring_receive(s) : rs_socket_receive(s);
}

/* A session that used much memory and then had nothing to do for a while gives it back. */
enum { RS_TRIM_MS = 100, RS_STRETCH_BYTES = 4096 };
int rs_idle(const struct rs_session *s);
void rs_trim(struct rs_session *s);

#endif
