/* A brokered session in C while its workers are killed: test_takeover_in_c.py kills them.
 *
 * takeover work FD PROGRESS: works in six ways at once until standard input ends, counting each in eight bytes
 * of the file PROGRESS. Every answer must be right, in its turn, and come once.
 * takeover stream FD: a running MAC is lost with its worker, and says so.
 *
 * FD is a session of hmac(sha256) with the key 0, 1, 2 ... 31. */
#define _GNU_SOURCE
#include <cryptofd.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                       \
	do {                                                                              \
		if (!(what)) {                                                            \
			fprintf(stderr, "line %d: %s (errno %s)\n", __LINE__, #what,      \
				strerror(errno));                                         \
			_exit(1);                                                         \
		}                                                                         \
	} while (0)

enum { ONE, MANY, POLLING, SHARED, CHILD, PARENT, WAYS };
enum { LARGE = 100000, TAG = 32, AHEAD = 64 };

static _Atomic uint64_t *progress;
static atomic_bool stop;

static const unsigned char *key(void)
{
	static unsigned char bytes[32];
	for (int i = 0; i < 32; i++)
		bytes[i] = i;
	return bytes;
}

/* The message with this number: now and then one that is attached. */
static size_t message(uint64_t number, unsigned char *data)
{
	size_t size = number % 50 == 49 ? LARGE : 8 + number * 977 % 5000;
	memset(data, (int)(number % 251), size);
	memcpy(data, &number, 8);
	return size;
}

static int ask(int fd, uint64_t id, const unsigned char *data, size_t size)
{
	struct cryptofd_request request = {
		.id = id, .op = CRYPTOFD_DIGEST, .data = data, .data_size = size};
	return cryptofd_submit(fd, &request, sizeof request);
}

struct near {
	int fd;
	unsigned char data[LARGE];
};

/* What is computed in this process is compared with. */
static struct near *near(void)
{
	struct near *near = malloc(sizeof *near);
	struct cryptofd_args args = {.algorithm = "hmac(sha256)", .key = key(), .key_size = 32};
	CHECK(near && (near->fd = cryptofd(&args, sizeof args, 0)) >= 0);
	return near;
}

static void far_from(struct near *near)
{
	close(near->fd);
	free(near);
}

/* The answer to message `id`, which must be the next. */
static int take(int fd, uint64_t id, struct near *near)
{
	unsigned char tag[TAG], right[TAG];
	struct cryptofd_completion done = {.data = tag, .data_size = sizeof tag};
	if (cryptofd_complete(fd, &done, sizeof done))
		return -1;
	CHECK(done.id == id && done.status == 0 && done.length == TAG);
	CHECK(ask(near->fd, id, near->data, message(id, near->data)) == 0);
	struct cryptofd_completion own = {.data = right, .data_size = sizeof right};
	CHECK(cryptofd_complete(near->fd, &own, sizeof own) == 0);
	CHECK(own.status == 0 && !memcmp(tag, right, TAG));
	return 0;
}

static int put(int fd, uint64_t id, struct near *near)
{
	return ask(fd, id, near->data, message(id, near->data));
}

static int cloned(int fd)
{
	struct cryptofd_request request = {.op = CRYPTOFD_CLONE};
	struct cryptofd_completion done = {.data = NULL};
	CHECK(cryptofd_submit(fd, &request, sizeof request) == 0);
	CHECK(cryptofd_complete(fd, &done, sizeof done) == 0);
	CHECK(done.status == 0 && done.fd >= 0);
	return done.fd;
}

/* No answer is left over. */
static void quiet(int fd)
{
	struct cryptofd_completion done = {.data = NULL};
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	CHECK(cryptofd_complete(fd, &done, sizeof done) == -1 && errno == EAGAIN);
	close(fd);
}

static void *one(void *argument)
{
	int fd = *(int *)argument;
	struct near *here = near();
	for (uint64_t id = 0; !stop; id++) {
		CHECK(put(fd, id, here) == 0 && take(fd, id, here) == 0);
		progress[ONE]++;
	}
	quiet(fd);
	far_from(here);
	return NULL;
}

static void *many(void *argument)
{
	int fd = *(int *)argument;
	struct near *here = near();
	for (uint64_t id = 0; !stop; id += 16) {
		for (int n = 0; n < 16; n++)
			CHECK(put(fd, id + n, here) == 0);
		for (int n = 0; n < 16; n++)
			CHECK(take(fd, id + n, here) == 0);
		progress[MANY]++;
	}
	quiet(fd);
	far_from(here);
	return NULL;
}

static void *polling(void *argument)
{
	int fd = *(int *)argument;
	struct near *here = near();
	uint64_t asked = 0, done = 0;
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	while (!stop || done < asked) {
		int full = 0;
		while (!stop && !full && asked < done + AHEAD) {
			full = put(fd, asked, here) != 0;
			CHECK(!full || errno == EAGAIN);
			asked += !full;
		}
		if (asked == done)
			continue;
		/* Answers alone, even where no request was taken: they make room. */
		struct pollfd one = {.fd = fd, .events = POLLIN};
		CHECK(poll(&one, 1, -1) == 1 && one.revents == POLLIN);
		while (done < asked && take(fd, done, here) == 0) {
			done++;
			progress[POLLING]++;
		}
		CHECK(done == asked || errno == EAGAIN);
	}
	quiet(fd);
	far_from(here);
	return NULL;
}

struct shared {
	int fd;
	sem_t ahead, asked;
	atomic_bool ended;
};

static void *asks(void *argument)
{
	struct shared *shared = argument;
	struct near *here = near();
	for (uint64_t id = 0; !stop; id++) {
		CHECK(sem_wait(&shared->ahead) == 0);
		CHECK(put(shared->fd, id, here) == 0);
		CHECK(sem_post(&shared->asked) == 0);
	}
	shared->ended = 1;
	CHECK(sem_post(&shared->asked) == 0);
	far_from(here);
	return NULL;
}

/* One thread asks, another takes the answers. */
static void *shared(void *argument)
{
	struct shared shared = {.fd = *(int *)argument};
	struct near *here = near();
	pthread_t other;
	CHECK(sem_init(&shared.ahead, 0, AHEAD) == 0 && sem_init(&shared.asked, 0, 0) == 0);
	CHECK(pthread_create(&other, NULL, asks, &shared) == 0);
	for (uint64_t id = 0;; id++) {
		int left;
		CHECK(sem_wait(&shared.asked) == 0);
		CHECK(sem_getvalue(&shared.asked, &left) == 0);
		if (shared.ended && left == 0)
			break;
		CHECK(take(shared.fd, id, here) == 0);
		CHECK(sem_post(&shared.ahead) == 0);
		progress[SHARED]++;
	}
	CHECK(pthread_join(other, NULL) == 0);
	quiet(shared.fd);
	far_from(here);
	return NULL;
}

static void *until_the_end(void *argument)
{
	char c;
	(void)argument;
	while (read(0, &c, 1) > 0)
		;
	stop = 1;
	return NULL;
}

/* A child takes a clone of its own, while its parent waits, and works with it beside its parent. */
static void forked(int fd)
{
	int told[2], ends[2];
	struct near *here = near();
	uint64_t id = 0;
	for (; id < 100; id++)
		CHECK(put(fd, id, here) == 0 && take(fd, id, here) == 0);
	CHECK(pipe(told) == 0 && pipe(ends) == 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(ends[1]);
		struct near *own = near();
		int clone = cloned(fd);
		CHECK(write(told[1], "", 1) == 1);
		struct pollfd end = {.fd = ends[0], .events = POLLIN};
		for (uint64_t id = 0; poll(&end, 1, 0) == 0; id++) {
			CHECK(put(clone, id, own) == 0 && take(clone, id, own) == 0);
			progress[CHILD]++;
		}
		quiet(clone);
		_exit(0);
	}
	char c;
	int status;
	CHECK(read(told[0], &c, 1) == 1);
	for (; !stop; id++) {
		CHECK(put(fd, id, here) == 0 && take(fd, id, here) == 0);
		progress[PARENT]++;
	}
	close(ends[1]);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	quiet(fd);
	far_from(here);
}

static void work(int fd, const char *file)
{
	int counts = open(file, O_RDWR | O_CLOEXEC), fds[SHARED + 1];
	void *(*ways[])(void *) = {one, many, polling, shared};
	pthread_t threads[SHARED + 1], end;

	CHECK(counts >= 0);
	progress = mmap(NULL, 8 * WAYS, PROT_READ | PROT_WRITE, MAP_SHARED, counts, 0);
	CHECK(progress != MAP_FAILED);
	CHECK(pthread_create(&end, NULL, until_the_end, NULL) == 0);
	for (int i = 0; i <= SHARED; i++) {
		fds[i] = cloned(fd);
		CHECK(pthread_create(&threads[i], NULL, ways[i], &fds[i]) == 0);
	}
	forked(fd);
	for (int i = 0; i <= SHARED; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

static int status_of(int fd, int op, const char *data)
{
	unsigned char buffer[256];
	struct cryptofd_request request = {.op = op, .data = data, .data_size = strlen(data)};
	struct cryptofd_completion done = {.data = buffer, .data_size = sizeof buffer};
	CHECK(cryptofd_submit(fd, &request, sizeof request) == 0);
	CHECK(cryptofd_complete(fd, &done, sizeof done) == 0);
	CHECK(done.op == op);
	return done.status;
}

static void stream(int fd)
{
	char c;
	CHECK(status_of(fd, CRYPTOFD_UPDATE, "begun") == 0);
	CHECK(write(1, "begun\n", 6) == 6 && read(0, &c, 1) == 1);
	CHECK(status_of(fd, CRYPTOFD_UPDATE, "more") == ESTALE);
	CHECK(status_of(fd, CRYPTOFD_DIGEST, "at once") == 0);
	CHECK(status_of(fd, CRYPTOFD_FINISH, "") == ESTALE);
	CHECK(status_of(fd, CRYPTOFD_RESET, "") == 0);
	CHECK(status_of(fd, CRYPTOFD_UPDATE, "begun") == 0);
	CHECK(status_of(fd, CRYPTOFD_FINISH, "") == 0);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "work"))
		work(atoi(argv[2]), argv[3]);
	else if (argc == 3 && !strcmp(argv[1], "stream"))
		stream(atoi(argv[2]));
	else
		return 2;
	puts("right");
	return 0;
}
