/* A program from before janus_edge.h grew (older/janus_edge.h): it draws with structs that end earlier.
 * usage: older BUNDLE ONNXRUNTIME */
#include <stdio.h>

#include "janus_edge.h"

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    je_options options;
    je_options_init(&options, sizeof options);
    options.onnxruntime = argv[2];
    je_session *engine = NULL;
    if (je_session_open(argv[1], &options, &engine)) return fprintf(stderr, "%s\n", je_error()), 1;
    /* canaries: what lies behind a struct is not ours to write */
    struct { je_request request; uint64_t behind; } given = {.behind = 0x5A5A5A5A};
    je_request_init(&given.request, sizeof given.request);
    given.request.prompt = "three red circles";
    given.request.seed = 3;
    je_job *job = NULL;
    if (je_job_start(engine, &given.request, &job)) return fprintf(stderr, "%s\n", je_error()), 1;
    struct { je_event event; uint64_t behind; } told = {.event = {.size = sizeof told.event}, .behind = 0x5A5A5A5A};
    je_status status;
    long sum = 0;
    while ((status = je_job_next(job, &told.event)) == JE_OK)
        if (told.event.kind == JE_EVENT_IMAGE)
            for (long i = 0; i < (long)told.event.image.stride * told.event.image.height; i++)
                sum += told.event.image.pixels[i];
    je_job_free(job);
    je_session_close(engine);
    if (status != JE_DONE || given.behind != 0x5A5A5A5A || told.behind != 0x5A5A5A5A) return 1;
    printf("%ld %zu %zu %zu\n", sum, sizeof options, sizeof given.request, sizeof told.event);
    return 0;
}
