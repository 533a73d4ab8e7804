/* What bench/native.py times of the C API: opening, and a picture for each line of its input.
 * usage: native BUNDLE ONNXRUNTIME THREADS
 * Prints a line when a picture's first code is there, and its times as JSON when it is finished; at the end what opening took
 * and the most memory held. */
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

/* 0, or -1 where it fails. */
static int draw(je_engine *engine) {
    je_request request;
    je_request_init(&request, sizeof request);
    request.prompt = "a red circle";
    je_job *job = NULL;
    if (je_job_start(engine, &request, &job)) return -1;
    je_event event = {.size = sizeof event};
    je_status status;
    double first_ms = -1;
    while ((status = je_job_next(job, &event)) == JE_OK) {
        if (first_ms >= 0) continue;
        first_ms = event.elapsed_ms;
        puts("first");
        fflush(stdout);
    }
    je_job_free(job);
    printf("{\"first_ms\": %.3f, \"picture_ms\": %.3f}\n", first_ms, event.elapsed_ms);
    fflush(stdout);
    return status == JE_DONE ? 0 : -1;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    je_options options;
    je_options_init(&options, sizeof options);
    options.onnxruntime = argv[2];
    options.num_threads = atoi(argv[3]);
    je_engine *engine = NULL;
    const double began = now_ms();
    if (je_engine_open(argv[1], &options, &engine)) return fprintf(stderr, "%s\n", je_error()), 1;
    const double open_ms = now_ms() - began;
    char line[16];
    while (fgets(line, sizeof line, stdin))
        if (draw(engine)) return fprintf(stderr, "%s\n", je_error()), 1;
    printf("{\"open_ms\": %.3f, \"peak_kb\": %ld}\n", open_ms, peak_kb());
    je_engine_close(engine);
    return 0;
}
