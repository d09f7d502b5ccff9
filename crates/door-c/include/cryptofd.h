/* cryptofd: a file descriptor that does one cryptographic job with one key. See cryptofd(3). */
#ifndef CRYPTOFD_H
#define CRYPTOFD_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cryptofd()'s flags. Close-on-exec is always on. */
#define CFD_NONBLOCK O_NONBLOCK

/* cryptofd_args.hardware */
#define CRYPTOFD_HARDWARE_ANY 0
#define CRYPTOFD_HARDWARE_PREFER 1
#define CRYPTOFD_HARDWARE_REQUIRE 2
#define CRYPTOFD_HARDWARE_FORBID 3

/* cryptofd_args.padding */
#define CRYPTOFD_PADDING_NONE 0
#define CRYPTOFD_PADDING_PKCS7 1

/* cryptofd_request.op */
#define CRYPTOFD_INFO 1
#define CRYPTOFD_CLONE 2
#define CRYPTOFD_CANCEL 3
#define CRYPTOFD_RING 4
#define CRYPTOFD_ENCRYPT 16
#define CRYPTOFD_DECRYPT 17
#define CRYPTOFD_DIGEST 18
#define CRYPTOFD_VERIFY 19
#define CRYPTOFD_WRAP 20
#define CRYPTOFD_UNWRAP 21
#define CRYPTOFD_DERIVE 22
#define CRYPTOFD_RANDOM 23
#define CRYPTOFD_SEAL 24
#define CRYPTOFD_UNSEAL 25
#define CRYPTOFD_UPDATE 32
#define CRYPTOFD_FINISH 33
#define CRYPTOFD_RESET 34
#define CRYPTOFD_PEEK 35
#define CRYPTOFD_SIGN_DIGEST 38
#define CRYPTOFD_VERIFY_DIGEST 39
#define CRYPTOFD_SIGN 40
#define CRYPTOFD_VERIFY_SIGNATURE 41
#define CRYPTOFD_PUBLIC_KEY 42
#define CRYPTOFD_AGREE 43
#define CRYPTOFD_ENCAPSULATE 44
#define CRYPTOFD_DECAPSULATE 45
#define CRYPTOFD_HASH_KEY 46
#define CRYPTOFD_STREAM_BEGIN 48
#define CRYPTOFD_STREAM_UPDATE 49
#define CRYPTOFD_STREAM_FINISH 50

/* cryptofd_request.flags */
#define CRYPTOFD_RUNNING 2 /* VERIFY: the running state and then data, instead of data alone */

/* cryptofd_request.direction */
#define CRYPTOFD_DIRECTION_ENCRYPT 1
#define CRYPTOFD_DIRECTION_DECRYPT 2

/* Limits of a descriptor. */
#define CRYPTOFD_INLINE_MAX 65536      /* bytes of payload that travel in a record */
#define CRYPTOFD_RECORD_MAX 81920      /* bytes of a record: the buffer of a raw reader */
#define CRYPTOFD_ATTACHED_MAX 67108864 /* bytes of payload of one request */

/* What is opened. Zero it first: 0 and NULL mean "the default" everywhere but in algorithm. */
struct cryptofd_args {
	const char *algorithm; /* "gcm(aes)", "sha256", "hmac(sha256)", ... */
	const void *key;
	size_t      key_size;
	int32_t     key_serial; /* instead of key: a key in the kernel's keyring */
	uint32_t    hardware;
	const char *engine; /* this engine and no other: "software", "openssl", "kernel" */
	const char *driver; /* this driver and no other */
	uint32_t    tag_size;
	uint32_t    digest_size;
	uint32_t    padding;
	uint32_t    fips; /* 1: by a validated module only */
	const void *iv;   /* a nonce that belongs to the session (GMAC) */
	size_t      iv_size;
};

/* What is asked. Zero it first; an op takes what cryptofd(3) says and nothing else. */
struct cryptofd_request {
	uint64_t    id; /* yours; the answer repeats it */
	uint16_t    op;
	uint16_t    flags;
	uint32_t    direction; /* STREAM_BEGIN */
	const void *iv;
	size_t      iv_size;
	const void *aad;
	size_t      aad_size;
	const void *data;
	size_t      data_size;
	const void *tag; /* VERIFY; the signature of VERIFY_SIGNATURE and VERIFY_DIGEST */
	size_t      tag_size;
	const void *salt; /* DERIVE */
	size_t      salt_size;
	const void *info; /* DERIVE */
	size_t      info_size;
	uint64_t    length; /* bytes wanted: RANDOM, DERIVE, a digest of an XOF */
	uint64_t    n;      /* scrypt */
	uint32_t    r;      /* scrypt */
	uint32_t    p;      /* scrypt */
	uint32_t    iterations; /* PBKDF2 */
	int32_t     salt_length; /* PSS: bytes; 0: as many as the hash has, -1: none */
	uint64_t    target;     /* CANCEL: an id; 0: all */
	const char *hash;       /* signatures, OAEP: "sha256", ...; NULL: what suits the key */
	const char *scheme;     /* RSA: "pkcs1", "pss", "oaep", "raw" */
	const char *format;     /* ECDSA: "der", "raw" */
	const void *label;      /* OAEP */
	size_t      label_size;
};

/* An answer. data and data_size are yours; zero the rest. */
struct cryptofd_completion {
	void    *data;
	size_t   data_size;
	uint64_t id;
	size_t   length;      /* bytes of the result; with EMSGSIZE, bytes that it needs */
	int32_t  status;      /* 0, or the errno of a refusal, whose sentence is in data */
	int32_t  fd;          /* CLONE's descriptor, or -1 */
	uint16_t op;
	uint16_t reserved[3]; /* 0 */
};

int cryptofd(const struct cryptofd_args *args, size_t size, unsigned flags);
int cryptofd_submit(int fd, const struct cryptofd_request *request, size_t size);
int cryptofd_complete(int fd, struct cryptofd_completion *completion, size_t size);
int cryptofd_info(int fd, char *buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
