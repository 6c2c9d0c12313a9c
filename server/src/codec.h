/* msgpack, as far as the protocol uses it: a cursor over bytes that came from a peer, and a writer
 * into memory whose size the caller has made sure of. No allocation, no recursion. */
#ifndef RS_CODEC_H
#define RS_CODEC_H

#include <stdint.h>

enum rs_kind { RS_NIL, RS_BOOL, RS_UINT, RS_NINT, RS_FLOAT, RS_STR, RS_BIN, RS_EXT, RS_ARRAY, RS_MAP };

struct rs_value {
    enum rs_kind kind;
    int8_t ext;          /* RS_EXT: its type, never negative */
    uint32_t len;        /* RS_STR, RS_BIN, RS_EXT: bytes; RS_ARRAY: items; RS_MAP: pairs */
    uint64_t number;     /* RS_UINT; RS_NINT: as two's complement */
    const uint8_t *data; /* RS_STR, RS_BIN, RS_EXT */
};

struct rs_reader {
    const uint8_t *p;
    const uint8_t *end;
};

/* The next value, containers without their contents. 0, or RS_ERR_MALFORMED. */
int rs_next(struct rs_reader *r, struct rs_value *v);

/* Whether the bytes are exactly one value with at most `depth` containers inside each other.
 * 0, or RS_ERR_MALFORMED, RS_ERR_DEPTH, RS_ERR_TRAILING. After this rs_next cannot fail on them. */
int rs_validate(const uint8_t *p, uint32_t len, uint32_t depth);

/* Step over one value and all that is in it; only on bytes that rs_validate has passed. */
void rs_skip(struct rs_reader *r);

/* A big-endian number of so many bytes. 0, or RS_ERR_MALFORMED if there are not as many. */
int rs_take_be(struct rs_reader *r, uint32_t bytes, uint64_t *out);

/* The next value's number; only where a check has already found an integer. */
uint64_t rs_number(struct rs_reader *r);

/* Writers return the position behind what they wrote. Fixed-width forms, so that the size of a
 * message is known before its contents are. */
uint8_t *rs_put_be(uint8_t *p, uint8_t tag, uint64_t value, uint32_t bytes);
uint8_t *rs_put_uint(uint8_t *p, uint64_t value); /* the shortest form */
uint8_t *rs_put_bytes(uint8_t *p, uint8_t tag32, const void *data, uint32_t len);
uint8_t *rs_put_str(uint8_t *p, const char *text); /* at most RS_SIZE_ERROR_TEXT bytes of it */

#define RS_TAG_UINT32 0xce
#define RS_TAG_UINT64 0xcf
#define RS_TAG_INT64 0xd3
#define RS_TAG_BIN32 0xc6
#define RS_TAG_ARRAY32 0xdd
#define RS_FIXARRAY 0x90
#define RS_FIXMAP 0x80

#endif
