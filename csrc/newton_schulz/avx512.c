#define HQK_NAME(op) op##_avx512
#include "body.h"
