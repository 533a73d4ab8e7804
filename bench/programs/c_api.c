/* What bench/programs/c_api.py times of the C API: opening, and images in chunks of codes or steps.
 * usage: native BUNDLE ONNXRUNTIME THREADS PARALLEL
 * A line of its input, a number, draws as far as so many codes on, or as the end of the image for 0. It answers with the time
 * that took as JSON; before the very first code is told, with a line. At the end: what opening took, the most memory held. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "janus_edge.h"

static double now_ms(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

static long peak_kb(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long found = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &found) == 1) break;
    if (file) fclose(file);
    return found;
}

/* Go on with an image by so many codes or steps, 0: all that are left; a new one where none is under way. parallel: that of
 * a request. 0, or -1 where it fails. */
static int draw(je_session *session, je_job **job, int count, int parallel) {
    static double first_ms = -1;
    const double began = now_ms();
    je_request request;
    je_request_init(&request, sizeof request);
    request.prompt = "a red circle";
    request.parallel = parallel;
    if (!*job && je_job_start(session, &request, job)) return -1;
    je_event event = {.size = sizeof event};
    je_status status;
    int done = 0;
    while ((status = je_job_next(*job, &event)) == JE_OK) {
        if (event.kind != JE_EVENT_PROGRESS) continue;
        if (first_ms < 0) {
            first_ms = event.elapsed_ms;
            puts("first");
            fflush(stdout);
        }
        if (++done == count) break;
    }
    if (status == JE_DONE) {
        je_job_free(*job);
        *job = NULL;
    }
    printf("{\"ms\": %.3f, \"first_ms\": %.3f, \"is_finished\": %d}\n", now_ms() - began, first_ms, status == JE_DONE);
    fflush(stdout);
    return status < 0 ? -1 : 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    je_options options;
    je_options_init(&options, sizeof options);
    options.onnxruntime = argv[2];
    options.num_threads = atoi(argv[3]);
    je_session *session = NULL;
    je_job *job = NULL;
    const double began = now_ms();
    if (je_session_open(argv[1], &options, &session)) return fprintf(stderr, "%s\n", je_error()), 1;
    const double open_ms = now_ms() - began;
    char line[16];
    while (fgets(line, sizeof line, stdin))
        if (draw(session, &job, atoi(line), atoi(argv[4]))) return fprintf(stderr, "%s\n", je_error()), 1;
    printf("{\"open_ms\": %.3f, \"peak_kb\": %ld}\n", open_ms, peak_kb());
    je_job_free(job);
    je_session_close(session);
    return 0;
}
