/* What bench/native.py times of the C API: opening, the first code or step, two pictures.
 * usage: native BUNDLE ONNXRUNTIME THREADS; prints a line when the first code is there, then one JSON document. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* Milliseconds of a picture; *first_ms: to its first code. */
static double draw(je_engine *engine, int says_first, double *first_ms) {
    je_request request;
    je_request_init(&request, sizeof request);
    request.prompt = "a red circle";
    je_job *job = NULL;
    if (je_job_start(engine, &request, &job)) return -1;
    je_event event = {.size = sizeof event};
    je_status status;
    *first_ms = -1;
    while ((status = je_job_next(job, &event)) == JE_OK) {
        if (*first_ms >= 0) continue;
        *first_ms = event.elapsed_ms;
        if (says_first) {
            puts("first");
            fflush(stdout);
        }
    }
    je_job_free(job);
    return status == JE_DONE ? event.elapsed_ms : -1;
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
    double first_ms, again_ms;
    const double picture_ms = draw(engine, 1, &first_ms), warm_ms = draw(engine, 0, &again_ms);
    if (picture_ms < 0 || warm_ms < 0) return fprintf(stderr, "%s\n", je_error()), 1;
    printf("{\"open_ms\": %.3f, \"first_ms\": %.3f, \"picture_ms\": %.3f, \"warm_picture_ms\": %.3f, \"peak_kb\": %ld}\n",
           open_ms, first_ms, picture_ms, warm_ms, peak_kb());
    je_engine_close(engine);
    return 0;
}
