/* The peer: batches of operations by libkcapi. See bench/inside.py for what it reads and writes. */
#include <kcapi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	const char *algorithm = argv[1];
	size_t size = strtoul(argv[2], NULL, 10);
	uint8_t key[32], iv[16] = {0}, digest[32];
	uint8_t *data, *out;
	struct kcapi_handle *handle;
	int hash = !strcmp(algorithm, "sha256");

	/* libkcapi's zero-copy path wants pages. */
	if (posix_memalign((void **)&data, 4096, size + 4096) ||
	    posix_memalign((void **)&out, 4096, size + 4096))
		return 1;
	memset(data, 0, size);
	for (int i = 0; i < 32; i++)
		key[i] = i;
	if (hash ? kcapi_md_init(&handle, algorithm, 0) : kcapi_cipher_init(&handle, algorithm, 0))
		return 1;
	if (!hash && kcapi_cipher_setkey(handle, key, sizeof(key)))
		return 1;

	long times;
	while (scanf("%ld", &times) == 1) {
		int64_t start = now();
		for (long i = 0; i < times; i++) {
			ssize_t done = hash ? kcapi_md_digest(handle, data, size, digest, sizeof(digest))
					    : kcapi_cipher_encrypt(handle, data, size, iv, out, size,
								   KCAPI_ACCESS_HEURISTIC);
			if (done != (ssize_t)(hash ? sizeof(digest) : size))
				return 1;
		}
		printf("%lld\n", (long long)(now() - start));
		fflush(stdout);
	}
	return 0;
}
