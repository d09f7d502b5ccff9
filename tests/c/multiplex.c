/* One epoll loop: a timerfd, a socket and ten cryptofds. Then the errors, one by one. */
#define _GNU_SOURCE
#include <assert.h>
#include <cryptofd.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what)                                                                       \
	do {                                                                              \
		if (!(what)) {                                                            \
			fprintf(stderr, "line %d: %s (errno %s)\n", __LINE__, #what,      \
				strerror(errno));                                         \
			exit(1);                                                          \
		}                                                                         \
	} while (0)
#define FAILS(what, error)                                                                \
	do {                                                                              \
		errno = 0;                                                                \
		CHECK((what) == -1);                                                      \
		CHECK(errno == (error));                                                  \
	} while (0)

enum { FDS = 10, ROUNDS = 20, TIMER = 100, SOCKET = 101 };

static int open_gcm(unsigned flags)
{
	struct cryptofd_args args = {.algorithm = "gcm(aes)",
				     .key = "0123456789abcdef0123456789abcdef",
				     .key_size = 32};
	return cryptofd(&args, sizeof args, flags);
}

static void multiplex(void)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC), pair[2], fds[FDS], done[FDS] = {0};
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	struct itimerspec spec = {.it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 1000000};
	unsigned char box[FDS][4096 + 16], data[4096];
	int ticks = 0, packets = 0, finished = 0;

	CHECK(epoll >= 0 && timer >= 0);
	CHECK(timerfd_settime(timer, 0, &spec, NULL) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = TIMER};
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) == 0);
	event.data.u32 = SOCKET;
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event) == 0);
	memset(data, 'x', sizeof data);
	for (int i = 0; i < FDS; i++) {
		CHECK((fds[i] = open_gcm(CFD_NONBLOCK)) >= 0);
		CHECK(fcntl(fds[i], F_GETFD) == FD_CLOEXEC);
		CHECK(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
		event.data.u32 = i;
		CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) == 0);
		struct cryptofd_completion none = {.data = NULL};
		FAILS(cryptofd_complete(fds[i], &none, sizeof none), EAGAIN);
	}
	while (finished < FDS || packets < 5 || ticks < 5) {
		struct epoll_event events[8];
		int n = epoll_wait(epoll, events, 8, 10000);
		CHECK(n > 0);
		for (int e = 0; e < n; e++) {
			unsigned who = events[e].data.u32;
			if (who == TIMER) {
				uint64_t expired;
				CHECK(read(timer, &expired, 8) == 8);
				ticks++;
				CHECK(write(pair[1], "p", 1) == 1);
				/* Each tick begins a message on every descriptor that has not had its rounds. */
				for (int i = 0; i < FDS; i++) {
					struct cryptofd_request ask = {.id = done[i],
								       .op = CRYPTOFD_ENCRYPT,
								       .iv = "twelve bytes",
								       .iv_size = 12,
								       .data = data,
								       .data_size = sizeof data};
					if (done[i] == 0 && ticks == 1)
						CHECK(cryptofd_submit(fds[i], &ask, sizeof ask) == 0);
				}
			} else if (who == SOCKET) {
				char c[64];
				ssize_t got = read(pair[0], c, sizeof c);
				CHECK(got > 0);
				packets += got;
			} else {
				struct cryptofd_completion answer = {.data = box[who],
								     .data_size = sizeof box[who]};
				CHECK(cryptofd_complete(fds[who], &answer, sizeof answer) == 0);
				CHECK(answer.status == 0 && answer.id == (uint64_t)done[who]);
				CHECK(answer.op == (done[who] % 2 ? CRYPTOFD_DECRYPT
								  : CRYPTOFD_ENCRYPT));
				if (done[who] % 2 == 0)
					CHECK(answer.length == sizeof data + 16);
				else
					CHECK(answer.length == sizeof data &&
					      !memcmp(box[who], data, sizeof data));
				if (++done[who] == ROUNDS) {
					finished++;
					continue;
				}
				/* Encrypt, decrypt, encrypt, ... */
				int back = done[who] % 2;
				struct cryptofd_request ask = {
					.id = done[who],
					.op = back ? CRYPTOFD_DECRYPT : CRYPTOFD_ENCRYPT,
					.iv = "twelve bytes",
					.iv_size = 12,
					.data = back ? box[who] : data,
					.data_size = back ? sizeof box[who] : sizeof data};
				CHECK(cryptofd_submit(fds[who], &ask, sizeof ask) == 0);
			}
		}
	}
	for (int i = 0; i < FDS; i++)
		close(fds[i]);
	close(epoll), close(timer), close(pair[0]), close(pair[1]);
	printf("multiplexed: %d messages, %d ticks or more\n", FDS * ROUNDS, 5);
}

static void errors(void)
{
	struct cryptofd_args args = {.algorithm = "sha256"};
	struct { struct cryptofd_args args; char more[16]; } future = {.args = args};

	FAILS(cryptofd(NULL, sizeof args, 0), EFAULT);
	FAILS(cryptofd(&args, sizeof args - 1, 0), EINVAL);
	FAILS(cryptofd(&args, sizeof args, 1u << 30), EINVAL);
	FAILS(cryptofd(&args, 5000, 0), E2BIG);
	int fd = cryptofd(&future.args, sizeof future, 0);
	CHECK(fd >= 0);
	close(fd);
	future.more[15] = 1;
	FAILS(cryptofd(&future.args, sizeof future, 0), E2BIG);
	args.algorithm = "rot13";
	FAILS(cryptofd(&args, sizeof args, 0), ENOENT);
	args.algorithm = NULL;
	FAILS(cryptofd(&args, sizeof args, 0), EFAULT);
	args = (struct cryptofd_args){.algorithm = "sha256", .key = "k", .key_size = 1};
	FAILS(cryptofd(&args, sizeof args, 0), EINVAL);
	args = (struct cryptofd_args){.algorithm = "gcm(aes)", .key = "short", .key_size = 5};
	FAILS(cryptofd(&args, sizeof args, 0), EINVAL);
	args = (struct cryptofd_args){.algorithm = "sha256", .hardware = CRYPTOFD_HARDWARE_REQUIRE,
				      .engine = "software"};
	FAILS(cryptofd(&args, sizeof args, 0), ENODEV);
	args = (struct cryptofd_args){.algorithm = "sha256", .fips = 1, .engine = "software"};
	FAILS(cryptofd(&args, sizeof args, 0), EPERM);

	struct cryptofd_request ask = {.op = CRYPTOFD_DIGEST, .data = "abc", .data_size = 3};
	struct cryptofd_completion answer = {.data = NULL};
	FAILS(cryptofd_submit(-1, &ask, sizeof ask), EBADF);
	FAILS(cryptofd_complete(-1, &answer, sizeof answer), EBADF);
	FAILS(cryptofd_submit(0, &ask, sizeof ask - 8), EINVAL);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	FAILS(cryptofd_submit(null, &ask, sizeof ask), ENOTSOCK);
	close(null);
	puts("errors: right");
}

static void answers(void)
{
	static const unsigned char abc[32] = {
		0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
		0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
		0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
	struct cryptofd_args args = {.algorithm = "sha256"};
	struct cryptofd_request ask = {
		.id = 9, .op = CRYPTOFD_DIGEST, .data = "abc", .data_size = 3};
	unsigned char digest[32], tiny[4];
	struct cryptofd_completion answer = {.data = tiny, .data_size = sizeof tiny};
	char json[8192];
	int fd = cryptofd(&args, sizeof args, 0);

	CHECK(fd >= 0);
	int length = cryptofd_info(fd, json, sizeof json);
	CHECK(length > 0 && (size_t)length == strlen(json) && strstr(json, "\"sha256\""));
	CHECK(cryptofd_info(fd, NULL, 0) == length);
	CHECK(cryptofd_submit(fd, &ask, sizeof ask) == 0);
	/* Too small a buffer: the answer stays, and its size is told. */
	FAILS(cryptofd_complete(fd, &answer, sizeof answer), EMSGSIZE);
	CHECK(answer.length == 32 && answer.id == 9);
	FAILS(cryptofd_info(fd, json, sizeof json), EBUSY);
	answer.data = digest, answer.data_size = sizeof digest;
	CHECK(cryptofd_complete(fd, &answer, sizeof answer) == 0);
	CHECK(answer.length == 32 && !memcmp(digest, abc, 32));
	/* The description that came too late for cryptofd_info(). */
	answer.data = json, answer.data_size = sizeof json;
	CHECK(cryptofd_complete(fd, &answer, sizeof answer) == 0);
	CHECK(answer.id == UINT64_MAX && answer.op == CRYPTOFD_INFO);

	/* A refusal: its sentence is cut to the buffer. */
	ask.op = CRYPTOFD_WRAP;
	CHECK(cryptofd_submit(fd, &ask, sizeof ask) == 0);
	answer.data = tiny, answer.data_size = sizeof tiny;
	CHECK(cryptofd_complete(fd, &answer, sizeof answer) == 0);
	CHECK(answer.status == EOPNOTSUPP && answer.length == sizeof tiny);

	/* A megabyte travels in attached memory. */
	char *big = calloc(1, 1 << 20);
	ask = (struct cryptofd_request){
		.op = CRYPTOFD_DIGEST, .data = big, .data_size = 1 << 20};
	CHECK(cryptofd_submit(fd, &ask, sizeof ask) == 0);
	free(big);
	answer.data = digest, answer.data_size = sizeof digest;
	CHECK(cryptofd_complete(fd, &answer, sizeof answer) == 0);
	CHECK(answer.status == 0 && digest[0] == 0x30 && digest[1] == 0xe1);

	/* A clone has answers of its own; a child uses it, and its parent serves. */
	ask = (struct cryptofd_request){.op = CRYPTOFD_CLONE};
	CHECK(cryptofd_submit(fd, &ask, sizeof ask) == 0);
	CHECK(cryptofd_complete(fd, &answer, sizeof answer) == 0);
	CHECK(answer.status == 0 && answer.fd >= 0 && fcntl(answer.fd, F_GETFD) == FD_CLOEXEC);
	int clone = answer.fd;
	/* valgrind frees the C library's buffers in the child, and that writes them. */
	fflush(stdout);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		ask = (struct cryptofd_request){
			.op = CRYPTOFD_DIGEST, .data = "abc", .data_size = 3};
		int good = cryptofd_submit(clone, &ask, sizeof ask) == 0 &&
			   cryptofd_complete(clone, &answer, sizeof answer) == 0 &&
			   !memcmp(digest, abc, 32);
		/* And it serves its own. */
		int own = open_gcm(0);
		good = good && own >= 0 && cryptofd_info(own, json, sizeof json) > 0;
		_exit(good ? 0 : 1);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
	close(clone);
	close(fd);
	puts("answers: right");
}

static void nothing(int signal)
{
	(void)signal;
}

static void signals(void)
{
	struct sigaction act = {.sa_handler = nothing};
	struct cryptofd_completion answer = {.data = NULL};
	int fd = open_gcm(0);

	CHECK(fd >= 0 && sigaction(SIGALRM, &act, NULL) == 0);
	struct itimerspec soon = {.it_value.tv_nsec = 50000000};
	timer_t timer;
	CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
	CHECK(timer_settime(timer, 0, &soon, NULL) == 0);
	FAILS(cryptofd_complete(fd, &answer, sizeof answer), EINTR);
	timer_delete(timer);
	close(fd);
	puts("signals: right");
}

int main(void)
{
	multiplex();
	errors();
	answers();
	signals();
	return 0;
}
