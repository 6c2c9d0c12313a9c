/* Entry: the kernel leaves argc, argv, NULL, envp, NULL, auxv at the stack pointer. rs_main gets
 * that address and does not return; the stack is aligned to 16 bytes before the call. */
	.text
	.globl _start
	.type _start, @function
_start:
	xor %ebp, %ebp
	mov %rsp, %rdi
	and $-16, %rsp
	call rs_main
	ud2
	.size _start, . - _start

	.section .note.GNU-stack, "", @progbits
